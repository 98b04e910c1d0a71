"""The seam certificate: do the windows show in the output?

    python -m bench.quality.seams --slides test_a_40x.tif,test_b_40x.tif --scales 2,4,8 --size 2720,2720

A slide that is finer than a scale leads from is reduced first. Every crop is upscaled twice, on
the grid as it is and on one shifted by half a window, with the same noise at the same place of the
tissue. What lies on a window's line in the one lies inside a window in the other, so that tissue
and seams are told apart. Columns:

gradient    mean absolute luma step across window lines over that across random lines at the same
            phase of the 64 px grid (latents and the input's JPEG blocks have their own), with its
            95 % interval, which should contain 1 (in one crop of twenty it does not, by chance)
control     the same at the same places of the shifted run, where no windows meet: what is left of
            1 there is tissue
paired      the step over that at the same place of the shifted run, by segments of 64 px
sharpness   Laplacian energy in overlaps over that elsewhere, both against the other run; 0.97-1.03
comb_db     power at the harmonics of the windows' distance against the shifted run; within 1 dB

Steps vary with the tissue from one place to the next far more than along a line, and the two lines
of an overlap, 64 px apart, see much the same. So the independent observations are overlaps, not
lines or pixels: the intervals are Student's t for a ratio of means over them (Cochran 1977,
Sampling Techniques, 6.4). Few overlaps give wide intervals; larger crops narrow them.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t
from torch import Tensor

from wsisr.engine import upscale_array
from wsisr.errors import UsageError
from wsisr.evaluation.measures import MIN_COMB_REPEATS, comb_energies, luma
from wsisr.models import Upscaler, WindowInput, block_side, load_upscaler, pick_device
from wsisr.slides import open_slide, select_view

SEGMENT = 64
GRID = 64
CONFIDENCE = 0.95
SHARPNESS = (0.97, 1.03)
COMB_DB = 1.0
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


def overlap_lines(size: int, tile: int, overlap: int, shift: int = 0) -> list[list[int]]:
    """For each overlap that lies in the image: where a window starts and the one before ends.

    The grid of windows starts at px `shift`.
    """
    stride = tile - overlap
    starts = [i * stride + shift for i in range(1, (size - shift) // stride + 1)]
    both = [sorted({x + d for d in (0, overlap) if 0 < x + d < size}) for x in starts]
    return [lines for lines in both if lines]


def overlap_steps(
    sums: NDArray[np.float64], overlaps: Sequence[Sequence[int]]
) -> NDArray[np.float64]:
    """(overlaps, 2): steps across the lines of each overlap, and those across lines beside them.

    Args:
        sums: (columns - 1,) absolute steps from each column to the next, summed along it.
        overlaps: the columns where lines are; random lines stand a multiple of `GRID` px from
            them and are none of them.
    """
    apart = {x for lines in overlaps for x in lines}
    rows = []
    for lines in overlaps:
        near = [[x + k * GRID for k in range(-3, 4)] for x in lines]
        beside = [[b for b in each if 0 < b <= len(sums) and b not in apart] for each in near]
        if all(beside):
            own = sum(sums[x - 1] for x in lines)
            rows.append((own, sum(sums[[b - 1 for b in each]].mean() for each in beside)))
    return np.array(rows, np.float64).reshape(-1, 2)


def ratio_with_interval(pairs: NDArray[np.float64]) -> tuple[float, float, float]:
    """Ratio of the sums of two columns with its interval, the rows being independent.

    The ratio's error is, to first order, the sum of the rows' residuals over the denominator.
    """
    count, total = len(pairs), pairs.sum(0)
    ratio = total[0] / total[1]
    residuals = pairs[:, 0] - ratio * pairs[:, 1]
    error = math.sqrt(count / (count - 1) * np.square(residuals).sum()) / total[1]
    reach = student_t.ppf(0.5 + CONFIDENCE / 2, count - 1) * error
    return float(ratio), float(ratio - reach), float(ratio + reach)


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
    gradient, control, paired = [], [], []
    for axis in (0, 1):
        one, other = (
            np.abs(np.diff(plane if axis else plane.T, axis=1)).astype(np.float64)
            for plane in planes
        )
        overlaps = overlap_lines(one.shape[1] + 1, tile, overlap, starts[0])
        gradient.append(overlap_steps(one.sum(0), overlaps))
        control.append(overlap_steps(other.sum(0), overlaps))
        segments = len(one) // SEGMENT
        for x in (x for lines in overlaps for x in lines):
            both = np.stack((one[:, x - 1], other[:, x - 1]), 1)[: segments * SEGMENT]
            paired.append(both.reshape(segments, SEGMENT, 2).sum(1))
    energy = [cv2.Laplacian(plane, cv2.CV_64F) ** 2 for plane in planes]
    inside = [overlap_mask(planes[0].shape, tile, overlap, d, d) for d in starts]
    only = (inside[0] & ~inside[1], inside[1] & ~inside[0])
    plain_share = energy[0][only[0]].mean() / energy[1][only[0]].mean()
    moved_share = energy[1][only[1]].mean() / energy[0][only[1]].mean()
    combs = [comb_energies(image, (stride,)) for image in (plain, moved)]
    decibels = [10 * math.log10(combs[0][key][0] / combs[1][key][0]) for key in combs[0]]
    figures = {
        "sharpness": math.sqrt(plain_share * moved_share),
        "comb_db": max(decibels, key=abs),
    }
    for name, rows in (("gradient", gradient), ("control", control), ("paired", paired)):
        ratio, low, high = ratio_with_interval(np.concatenate(rows))
        figures |= {name: ratio, f"{name}_low": low, f"{name}_high": high}
    return figures


def is_certified(figures: dict[str, float]) -> bool:
    """Whether the figures are those of an output without seams."""
    return (
        figures["gradient_low"] <= 1 <= figures["gradient_high"]
        and SHARPNESS[0] <= figures["sharpness"] <= SHARPNESS[1]
        and abs(figures["comb_db"]) <= COMB_DB
    )


def run(
    slide: Path, scale: int, model: Upscaler, size: tuple[int, int], tile: int, overlap: int
) -> dict[str, Any]:
    """Certify a crop of `size` output px (width, height) from the middle of a slide.

    Raises:
        UsageError: fewer windows fit into it than a comb is told from tissue by.
    """
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
        left, needed = min(width, height) * scale - shift - MARGIN, MIN_COMB_REPEATS * stride
        if left < needed:
            raise UsageError(
                f"{slide} x{scale}: {left} px of the crop can be judged, {needed} are needed for "
                f"{MIN_COMB_REPEATS} windows; give a larger --size, a smaller --tile, or the "
                "slide's finer scan"
            )
        x, y = (view.width - width) // 2, (view.height - height) // 2
        lr = np.ascontiguousarray(view.read(x, y, width, height))
    inner = shift // scale
    whole = upscale_array(lr, scale, model=model, window=tile, overlap=overlap)
    moved = upscale_array(
        np.ascontiguousarray(lr[inner:, inner:]),
        scale,
        model=Shifted(model, shift, shift, model.device),
        window=tile,
        overlap=overlap,
    )
    # the crop of the second run mirrors its own edges; what that reaches is left out
    plain = np.ascontiguousarray(whole[shift + MARGIN :, shift + MARGIN :])
    moved = np.ascontiguousarray(moved[MARGIN:, MARGIN:])
    return certify(plain, moved, tile, overlap, (-shift - MARGIN, -MARGIN))


def main() -> int:
    """Print the table; 1 where a crop is not certified."""
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
    device = pick_device(None)
    width, height = map(int, args.size.split(","))
    table: dict[str, Any] = {}
    columns = ("gradient", "control", "paired")
    heads = "".join(f"{name:>23}" for name in columns)
    print(f"{'':26}{heads}{'sharpness':>11}{'comb_db':>9}  certified")
    failed = 0
    for slide in map(Path, args.slides.split(",")):
        for scale in map(int, args.scales.split(",")):
            name = f"{slide.stem} x{scale}"
            model = load_upscaler(args.model, device=device, settings=settings, scale=scale)
            try:
                found = run(slide, scale, model, (width, height), tile, args.overlap)
            except UsageError as error:
                failed += 1
                table[name] = {"not_run": str(error)}
                print(f"{name[-25:].ljust(26)}not run: {error}", flush=True)
                continue
            found["certified"] = is_certified(found)
            failed += not found["certified"]
            table[name] = found
            ratios = "".join(
                f"{found[c]:8.3f} [{found[c + '_low']:.3f},{found[c + '_high']:.3f}]"
                for c in columns
            )
            rest = f"{found['sharpness']:11.3f}{found['comb_db']:9.2f}"
            verdict = "yes" if found["certified"] else "NO"
            print(f"{name[-25:].ljust(26)}{ratios}{rest}  {verdict}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(table, indent=2) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
