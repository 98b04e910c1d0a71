"""The seam certificate: do the windows show in the output?

    python -m bench.seams --slides slides/test_a_5x.tif,slides/test_b_10x.tif --scales 2,4,8

Every crop is upscaled twice, on the grid as it is and on one shifted by half a window, with the
same noise at the same place of the tissue. What lies on a window's line in the one lies inside a
window in the other, so that tissue and seams are told apart. Columns:

gradient    mean absolute luma step across window lines over that across random lines at the same
            phase of the 64 px grid (latents and the input's JPEG blocks have their own), with the
            95 % interval of a bootstrap over the lines; it should contain 1
paired      the step over that at the same place of the shifted run, bootstrap over 64 px segments
sharpness   Laplacian energy in overlaps over that elsewhere, both against the other run; 0.97-1.03
comb_db     power at the harmonics of the windows' distance against the shifted run; within 1 dB
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from wsisr.engine import upscale_array
from wsisr.evaluation.pixels import luma
from wsisr.evaluation.spectrum import comb_energies
from wsisr.models import Upscaler, WindowInput, load_upscaler, pick_device
from wsisr.models.joint import block_side
from wsisr.slides import open_slide, select_view

SEGMENT = 64
GRID = 64
RESAMPLES = 2000
MARGIN = 128
"""Output px at the crop's edges; a multiple of `GRID`."""
Plane = NDArray[np.float64]


@dataclass
class Shifted:
    """A model for a crop that starts (dx, dy) output px further in: its noise is that of there."""

    model: Upscaler
    dx: int
    dy: int
    device: Any

    def __call__(self, windows: Sequence[WindowInput]) -> Tensor:
        """See `Upscaler`."""
        return self.model([replace(w, x=w.x + self.dx, y=w.y + self.dy) for w in windows])

    def describe(self) -> Any:
        """See `Upscaler`."""
        return self.model.describe()


def window_lines(size: int, tile: int, overlap: int, shift: int = 0) -> list[int]:
    """Where windows start and where the one before ends, of a grid that starts at `shift`."""
    stride = tile - overlap
    starts = [i * stride + shift for i in range(1, (size - shift) // stride + 1)]
    return sorted({x + d for x in starts for d in (0, overlap) if 0 < x + d < size})


def line_steps(plane: Plane, lines: Sequence[int], apart: Sequence[int]) -> NDArray[np.float64]:
    """(lines, 2): sums of the step across each line, and the mean of those beside it.

    `apart` are the lines that do not count as random; those stand `GRID` px from each other.
    """
    steps = np.abs(np.diff(plane, axis=1))
    # for every column border x - 1 | x; what lies along one line is no independent sample
    sums = steps.sum(0)
    rows = []
    for x in lines:
        beside = [x + k * GRID for k in range(-3, 4) if k]
        beside = [b for b in beside if 0 < b < plane.shape[1] and b not in apart]
        if beside:
            rows.append((sums[x - 1], sums[[b - 1 for b in beside]].mean()))
    return np.array(rows, np.float64).reshape(-1, 2)


def ratio_with_interval(pairs: NDArray[np.float64], seed: int = 0) -> tuple[float, float, float]:
    """Ratio of the sums of two columns, and its 95 % interval by bootstrap over the rows."""
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(pairs), (RESAMPLES, len(pairs)))
    sums = pairs[picks].sum(1)
    low, high = np.quantile(sums[:, 0] / sums[:, 1], (0.025, 0.975))
    total = pairs.sum(0)
    return float(total[0] / total[1]), float(low), float(high)


def overlap_mask(shape: tuple[int, int], tile: int, overlap: int, dx: int, dy: int) -> Any:
    """Bool (h, w): shared by windows of the grid moved by (dx, dy) px."""
    stride = tile - overlap
    rows, columns = (
        ((np.arange(n) - d) % stride < overlap) & (np.arange(n) - d >= stride)
        for n, d in ((shape[0], dy), (shape[1], dx))
    )
    return rows[:, None] | columns[None]


def certify(
    plain: Any, moved: Any, tile: int, overlap: int, starts: tuple[int, int]
) -> dict[str, Any]:
    """The figures of two runs of one piece of tissue, uint8 (h, w, 3) each.

    The grid of windows of the one starts at px `starts[0]` of both axes (at or before 0), that of
    the other at `starts[1]`; see the module's text for the figures.
    """
    stride = tile - overlap
    planes = [luma(image) for image in (plain, moved)]
    gradient, paired = [], []
    for axis in (0, 1):
        one, other = (plane if axis else np.ascontiguousarray(plane.T) for plane in planes)
        lines = window_lines(one.shape[1], tile, overlap, starts[0])
        gradient.append(line_steps(one, lines, lines))
        own = np.abs(np.diff(one, axis=1))
        same = np.abs(np.diff(other, axis=1))
        segments = own.shape[0] // SEGMENT
        for x in lines:
            both = np.stack((own[:, x - 1], same[:, x - 1]), 1)[: segments * SEGMENT]
            paired.append(both.reshape(segments, SEGMENT, 2).sum(1))
    energy = [cv2.Laplacian(plane, cv2.CV_64F) ** 2 for plane in planes]
    inside = [overlap_mask(planes[0].shape, tile, overlap, d, d) for d in starts]
    only = (inside[0] & ~inside[1], inside[1] & ~inside[0])
    plain_share = energy[0][only[0]].mean() / energy[1][only[0]].mean()
    moved_share = energy[1][only[1]].mean() / energy[0][only[1]].mean()
    combs = [comb_energies(image, (stride,)) for image in (plain, moved)]
    decibels = [10 * math.log10(combs[0][key][0] / combs[1][key][0]) for key in combs[0]]
    ratio, low, high = ratio_with_interval(np.concatenate(gradient))
    paired_ratio, paired_low, paired_high = ratio_with_interval(np.concatenate(paired))
    return {
        "gradient": ratio,
        "gradient_low": low,
        "gradient_high": high,
        "paired": paired_ratio,
        "paired_low": paired_low,
        "paired_high": paired_high,
        "sharpness": math.sqrt(plain_share * moved_share),
        "comb_db": max(decibels, key=abs) if decibels else math.nan,
    }


def run(
    slide: Path, scale: int, model: Upscaler, size: tuple[int, int], tile: int, overlap: int
) -> dict[str, Any]:
    """Certify a crop of `size` output px (width, height) from the middle of a slide."""
    stride = tile - overlap
    unit = math.lcm(8, scale)
    shift = stride // 2 // unit * unit
    width, height = ((n + shift + MARGIN) // scale for n in size)
    with open_slide(slide) as opened:
        mpp = select_view(opened, level=0).mpp
        # where the slide is finer than the scale leads from, a coarser view of it
        wanted = 0.25 * scale
        view = select_view(opened, input_mpp=wanted) if mpp and mpp < wanted * 0.9 else None
        view = view or select_view(opened, level=0)
        width, height = min(width, view.width), min(height, view.height)
        x, y = (view.width - width) // 2, (view.height - height) // 2
        lr = np.ascontiguousarray(view.read(x, y, width, height))
    inner = shift // scale
    whole = upscale_array(lr, scale, model=model, tile=tile, overlap=overlap)
    moved = upscale_array(
        np.ascontiguousarray(lr[inner:, inner:]),
        scale,
        model=Shifted(model, shift, shift, model.device),
        tile=tile,
        overlap=overlap,
    )
    # the crop of the second run mirrors its own edges; what that reaches is left out
    plain = np.ascontiguousarray(whole[shift + MARGIN :, shift + MARGIN :])
    moved = np.ascontiguousarray(moved[MARGIN:, MARGIN:])
    return certify(plain, moved, tile, overlap, (-shift - MARGIN, -MARGIN))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slides", required=True, help="comma-separated files")
    parser.add_argument("--scales", default="2,4,8")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--overlap", type=int, default=64)
    parser.add_argument("--size", default="1856,1856", help="output px, width,height")
    parser.add_argument("--joint", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    settings = {"joint": (args.tile, args.overlap)} if args.joint else {}
    tile = block_side(args.tile, args.overlap) if args.joint else args.tile
    model = load_upscaler(args.model, device=pick_device(None), settings=settings)
    width, height = map(int, args.size.split(","))
    table: dict[str, Any] = {}
    print(f"{'':32}{'gradient':>28}{'paired':>28}{'sharpness':>11}{'comb_db':>9}")
    for slide in map(Path, args.slides.split(",")):
        for scale in map(int, args.scales.split(",")):
            found = run(slide, scale, model, (width, height), tile, args.overlap)
            table[f"{slide.stem} x{scale}"] = found
            ratios = "".join(
                f"{found[name]:10.3f} [{found[name + '_low']:.3f}, {found[name + '_high']:.3f}]"
                for name in ("gradient", "paired")
            )
            rest = f"{found['sharpness']:11.3f}{found['comb_db']:9.2f}"
            print(f"{slide.stem[:26]} x{scale}".ljust(32) + ratios + rest, flush=True)
    if args.json:
        args.json.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
