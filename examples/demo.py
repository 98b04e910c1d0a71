"""Upscale a real histology image with the shipped model: what `make demo` runs.

By default the low-resolution input is scikit-image's immunohistochemistry image (real tissue,
512x512, taken as a 10x scan); --slide gives any other slide.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import skimage


def main() -> None:
    """Run `wsisr upscale` and say where the result lies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slide", type=Path, help="slide to upscale to 40x")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder of the result")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    options: list[str] = []
    source = args.slide
    if source is None:
        source = Path(skimage.__file__).parent / "data" / "ihc.png"
        options = ["--input-mag", "10"]
    output = args.out / f"{source.stem}_40x.ome.tif"
    command = [
        sys.executable,
        "-m",
        "wsisr.cli",
        "upscale",
        str(source),
        str(output),
        "--overwrite",
    ]
    code = subprocess.run([*command, *options], check=False).returncode
    if code:
        sys.exit(code)
    print(f"\n{output.resolve()}")
    print("Open it with QuPath (https://qupath.github.io: File > Open), or any OME-TIFF viewer.")


if __name__ == "__main__":
    main()
