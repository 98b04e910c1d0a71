"""Certifies that the windows of the model do not show in the output.

    python -m bench.quality seams --slides a_40x.tif,b_40x.tif --scales 2,4,8 --size 2720,2720

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
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t
from torch import Tensor

from bench.command import (
    add_json,
    add_model,
    add_scales,
    make_parser,
    name_list,
    one_line,
    write_json,
)
from wsisr.engine import upscale_image
from wsisr.errors import OptionError, UsageError
from wsisr.evaluation.measures import MIN_COMB_REPEATS, Image, comb_energies, luma
from wsisr.models import Upscaler, WindowInput, block_side, load_upscaler, pick_device
from wsisr.slides import open_slide, select_view

SEGMENT = 64
GRID = 64
CONFIDENCE = 0.95
SHARPNESS = (0.97, 1.03)
COMB_DB = 1.0
MARGIN = 128
"""Output px at the crop's edges; a multiple of `GRID`."""
RATIOS = ("gradient", "control", "paired")
"""Figures that have an interval."""


@dataclass
class Shifted:
    """A model for a crop that starts further in: its noise is that of the crop's place.

    Attributes:
        model: the model.
        dx: where the crop starts, output px.
        dy: the same from the top.
        device: the model's device.
    """

    model: Upscaler
    dx: int
    dy: int
    device: Any

    def __call__(self, windows: Sequence[WindowInput]) -> Tensor:
        """Upscales windows; see `Upscaler`."""
        return self.model([replace(w, x=w.x + self.dx, y=w.y + self.dy) for w in windows])

    def describe(self) -> Any:
        """Describes the model; see `Upscaler`."""
        return self.model.describe()


@dataclass(frozen=True)
class Grid:
    """Windows of one side that overlap, along either axis.

    Attributes:
        window: side of a window, output px.
        overlap: px that neighbours share.
    """

    window: int
    overlap: int

    @property
    def stride(self) -> int:
        """Returns the distance of windows in px."""
        return self.window - self.overlap

    def overlap_lines(self, size: int, start: int = 0) -> list[list[int]]:
        """Lists where windows start and end in an image whose first window starts at `start`.

        Args:
            size: px of the image along the axis.
            start: px of the first window, at or before 0.

        Returns:
            For each overlap that lies in the image: where a window starts and the one before ends.
        """
        stride = self.stride
        starts = [i * stride + start for i in range(1, (size - start) // stride + 1)]
        both = [sorted({x + d for d in (0, self.overlap) if 0 < x + d < size}) for x in starts]
        return [lines for lines in both if lines]

    def overlap_mask(self, shape: tuple[int, int], start: int) -> NDArray[np.bool_]:
        """Tells which pixels several windows share, bool (h, w); `start` as in `overlap_lines`."""
        rows, columns = (
            ((np.arange(n) - start) % self.stride < self.overlap)
            & (np.arange(n) - start >= self.stride)
            for n in shape
        )
        mask: NDArray[np.bool_] = rows[:, None] | columns[None]
        return mask


def overlap_steps(
    sums: NDArray[np.float64], overlaps: Sequence[Sequence[int]]
) -> NDArray[np.float64]:
    """Sums the steps across the lines of each overlap, and those across lines beside them.

    Args:
        sums: (columns - 1,) absolute steps from each column to the next, summed along it.
        overlaps: the columns where lines are; random lines stand a multiple of `GRID` px from
            them and are none of them.

    Returns:
        (overlaps, 2).
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
    """Returns the ratio of the sums of two columns and its interval, low and high.

    The rows, (n, 2), are independent. The ratio's error is, to first order, the sum of the rows'
    residuals over the denominator.
    """
    count, total = len(pairs), pairs.sum(0)
    ratio = total[0] / total[1]
    residuals = pairs[:, 0] - ratio * pairs[:, 1]
    error = math.sqrt(count / (count - 1) * np.square(residuals).sum()) / total[1]
    reach = student_t.ppf(0.5 + CONFIDENCE / 2, count - 1) * error
    return float(ratio), float(ratio - reach), float(ratio + reach)


def certify(plain: Image, moved: Image, grid: Grid, starts: tuple[int, int]) -> dict[str, float]:
    """Compares two runs of one piece of tissue whose windows lie on shifted grids.

    Args:
        plain: the one, uint8 (h, w, 3).
        moved: the other, of the same shape.
        grid: the windows.
        starts: px where the first window of the one and of the other starts, along both axes; at
            or before 0.

    Returns:
        The figures of the module's text, and `_low` and `_high` of those of `RATIOS`.
    """
    planes = (luma(plain), luma(moved))
    figures = _gradients(planes, grid, starts[0])
    figures["sharpness"] = _sharpness(planes, grid, starts)
    combs = [comb_energies(image, (grid.stride,)) for image in (plain, moved)]
    decibels = [10 * math.log10(combs[0][key][0] / combs[1][key][0]) for key in combs[0]]
    figures["comb_db"] = max(decibels, key=abs)
    return figures


def _gradients(planes: tuple[Any, Any], grid: Grid, start: int) -> dict[str, float]:
    """Measures the ratios of steps across window lines, with their intervals."""
    rows: dict[str, list[NDArray[np.float64]]] = {name: [] for name in RATIOS}
    for axis in (0, 1):
        one, other = (
            np.abs(np.diff(plane if axis else plane.T, axis=1)).astype(np.float64)
            for plane in planes
        )
        overlaps = grid.overlap_lines(one.shape[1] + 1, start)
        rows["gradient"].append(overlap_steps(one.sum(0), overlaps))
        rows["control"].append(overlap_steps(other.sum(0), overlaps))
        segments = len(one) // SEGMENT
        for x in (x for lines in overlaps for x in lines):
            both = np.stack((one[:, x - 1], other[:, x - 1]), 1)[: segments * SEGMENT]
            rows["paired"].append(both.reshape(segments, SEGMENT, 2).sum(1))
    figures: dict[str, float] = {}
    for name, parts in rows.items():
        ratio, low, high = ratio_with_interval(np.concatenate(parts))
        figures |= {name: ratio, f"{name}_low": low, f"{name}_high": high}
    return figures


def _sharpness(planes: tuple[Any, Any], grid: Grid, starts: tuple[int, int]) -> float:
    """Measures Laplacian energy in the overlaps of either run against the other run there."""
    energy = [cv2.Laplacian(plane, cv2.CV_64F) ** 2 for plane in planes]
    inside = [grid.overlap_mask(planes[0].shape, start) for start in starts]
    only = (inside[0] & ~inside[1], inside[1] & ~inside[0])
    plain_share = energy[0][only[0]].mean() / energy[1][only[0]].mean()
    moved_share = energy[1][only[1]].mean() / energy[0][only[1]].mean()
    return math.sqrt(plain_share * moved_share)


def is_certified(figures: dict[str, float]) -> bool:
    """Tells whether the figures are those of an output without seams."""
    return (
        figures["gradient_low"] <= 1 <= figures["gradient_high"]
        and SHARPNESS[0] <= figures["sharpness"] <= SHARPNESS[1]
        and abs(figures["comb_db"]) <= COMB_DB
    )


def certify_slide(
    slide: Path, scale: int, model: Upscaler, size: tuple[int, int], grid: Grid
) -> dict[str, float]:
    """Certifies a crop from the middle of a slide.

    Args:
        slide: the slide's file.
        scale: a whole number.
        model: the model.
        size: width and height of the crop, output px.
        grid: the model's windows, or its blocks where it samples windows jointly.

    Returns:
        The figures of `certify`.

    Raises:
        UsageError: fewer windows fit into the crop than a comb is told from tissue by.
    """
    unit = math.lcm(8, scale)
    shift = grid.stride // 2 // unit * unit
    lr = _read_crop(slide, scale, size, shift, MIN_COMB_REPEATS * grid.stride)
    inner = shift // scale
    whole = upscale_image(lr, scale, model=model, window=grid.window, overlap=grid.overlap)
    moved = upscale_image(
        np.ascontiguousarray(lr[inner:, inner:]),
        scale,
        model=Shifted(model, shift, shift, model.device),
        window=grid.window,
        overlap=grid.overlap,
    )
    # the crop of the second run mirrors its own edges; what that reaches is left out
    plain = np.ascontiguousarray(whole[shift + MARGIN :, shift + MARGIN :])
    moved = np.ascontiguousarray(moved[MARGIN:, MARGIN:])
    return certify(plain, moved, grid, (-shift - MARGIN, -MARGIN))


def _read_crop(slide: Path, scale: int, size: tuple[int, int], shift: int, needed: int) -> Image:
    """Reads what becomes `size` output px in the middle of a slide, and a margin and a shift more.

    Args:
        slide: the slide's file.
        scale: a whole number.
        size: width and height, output px.
        shift: px that the second run starts further in.
        needed: px of the crop's shorter side that have to be left without margin and shift.

    Raises:
        UsageError: fewer are left.
    """
    width, height = ((n + shift + MARGIN) // scale for n in size)
    with open_slide(slide) as opened:
        mpp = select_view(opened, level=0).mpp
        # where the slide is finer than the scale leads from, a coarser view of it
        wanted = 0.25 * scale
        view = select_view(opened, input_mpp=wanted) if mpp and mpp < wanted * 0.9 else None
        view = view or select_view(opened, level=0)
        width, height = min(width, view.width), min(height, view.height)
        left = min(width, height) * scale - shift - MARGIN
        if left < needed:
            raise UsageError(
                f"{slide} x{scale}: {left} px of the crop can be judged, {needed} are needed for "
                f"{MIN_COMB_REPEATS} windows; give a larger <size>, a smaller <window>, or the "
                "slide's finer scan"
            )
        x, y = (view.width - width) // 2, (view.height - height) // 2
        return np.ascontiguousarray(view.read(x, y, width, height))


def _line(name: str, found: dict[str, float], certified: bool) -> str:
    ratios = "".join(
        f"{found[c]:8.3f} [{found[c + '_low']:.3f},{found[c + '_high']:.3f}]" for c in RATIOS
    )
    rest = f"{found['sharpness']:11.3f}{found['comb_db']:9.2f}"
    return f"{name[-25:].ljust(26)}{ratios}{rest}  {'yes' if certified else 'NO'}"


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = map(int, text.split(","))
    except ValueError:
        raise OptionError("size", text, "give width and height in px, as 1856,1856") from None
    return width, height


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("bench.quality seams", __doc__)
    add = parser.add_argument
    add("--slides", type=name_list, required=True, metavar="FILE,...", help="files of the slides")
    add_scales(parser, "2,4,8")
    add_model(parser)
    add(
        "--window",
        type=int,
        default=512,
        help="side of the model's windows, output px; default: 512",
    )
    add("--overlap", type=int, default=64, help="px that neighbouring windows share; default: 64")
    add(
        "--size",
        type=_size,
        default="1856,1856",
        help="width,height of the crop, output px; default: 1856,1856",
    )
    add("--joint", action="store_true", help="sample blocks of 2x2 windows together")
    add_json(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a line for each slide and scale; returns 1 where a crop is not certified.

    Raises:
        WsisrError: a slide or the model cannot be used.
    """
    options = _parser().parse_args(arguments)
    settings = {"joint": (options.window, options.overlap)} if options.joint else {}
    side = block_side(options.window, options.overlap) if options.joint else options.window
    device = pick_device(None)
    table: dict[str, object] = {}
    heads = "".join(f"{name:>23}" for name in RATIOS)
    print(f"{'':26}{heads}{'sharpness':>11}{'comb_db':>9}  certified")
    failed = 0
    for slide in map(Path, options.slides):
        for scale in options.scales:
            name = f"{slide.stem} x{scale}"
            model = load_upscaler(options.model, device=device, settings=settings, scale=scale)
            try:
                found = certify_slide(
                    slide, scale, model, options.size, Grid(side, options.overlap)
                )
            except UsageError as error:
                failed += 1
                table[f"{name} not_run"] = one_line(error)
                print(f"{name[-25:].ljust(26)}not run: {one_line(error)}", flush=True)
                continue
            certified = is_certified(found)
            failed += not certified
            table |= {f"{name} {key}": value for key, value in found.items()}
            table[f"{name} certified"] = certified
            print(_line(name, found, certified), flush=True)
    write_json(options.json, table)
    return 1 if failed else 0
