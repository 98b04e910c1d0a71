"""Upscales a real histology image with the shipped model; `make demo` runs it.

By default the input is scikit-image's immunohistochemistry image (colon, 512x512), halved: its
nuclei are 15 px wide, as at 20x. The model was trained on H&E; --slide gives a slide of yours.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from PIL import Image
from skimage.data import immunohistochemistry

import wsisr


def main() -> None:
    """Upscales the image and says where the result lies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slide", type=Path, help="slide to upscale to 40x")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder of the result")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    source, input_mag = args.slide, None
    if source is None:
        source, input_mag = args.out / "ihc_10x.png", 10.0
        Image.fromarray(immunohistochemistry()).reduce(2).save(source)
    output = args.out / f"{source.stem.removesuffix('_10x')}_40x.ome.tif"
    try:
        result = wsisr.upscale(
            source, output, input_mag=input_mag, overwrite=True, progress=show_progress
        )
    except wsisr.WsisrError as error:
        sys.exit(f"demo: {error}")
    print(f"\n{output.resolve()}: {result.width}x{result.height} px, {result.seconds:.0f} s")
    print("Open it with QuPath (https://qupath.github.io: File > Open), or any OME-TIFF viewer.")
    print("Its pixels are computer-generated and not for primary diagnosis.")


def show_progress(state: wsisr.State) -> None:
    """Counts the windows on one line of the terminal."""
    print(f"\r{state.done} of {state.total} windows", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
