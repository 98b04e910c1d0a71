"""Pairs of tiles from slides that lie on one grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

from wsisr.errors import OptionError, SlideError, UsageError
from wsisr.evaluation.measures import Image
from wsisr.evaluation.pairing.locations import Location, TileImages
from wsisr.evaluation.pairing.part import Part
from wsisr.evaluation.pairing.shifts import read_aligned
from wsisr.resize import bicubic_upsample
from wsisr.slides import Slide, overview, select_view
from wsisr.tissue import tissue_mask

LEAST_TISSUE = 0.5
"""Share of tissue a sampled tile has at least."""
LEAST_SIDE = 32
"""Side of the smallest tile, px of SR: measures have nothing to work on in smaller ones."""
BICUBIC_MARGIN = 4
"""LR px read around a tile, so that its bicubic enlargement equals the whole slide's."""
OVERVIEW_SIDE = 1024


@dataclass(frozen=True, eq=False)
class SlidePairs:
    """Tissue tiles of a slide, with the same locations of its reference and of its input.

    Memory: a tissue mask of at most 2048 px a side and an overview of at most 1024 px; the pixels
    of a tile live only while it is measured.

    Attributes:
        sr: the result.
        mpp: um/px of SR.
        hr: the real scan, None where there is none.
        lr: the slide that was upscaled, None where there is none.
        matrix: (2, 3), from SR's level-0 px to HR's.
        tile_size: side of the tiles, px of SR.
        count: how many tiles are drawn; None for all.
        seed: seed of the draw.
        also: {label: another result on SR's grid}.
        part: the part of LR that SR shows; None for all of it.

    Raises:
        OptionError: a result in `also` has another size than SR.
    """

    sr: Slide
    mpp: float
    hr: Slide | None = None
    lr: Slide | None = None
    matrix: npt.NDArray[np.float64] | None = None
    tile_size: int = 512
    count: int | None = None
    seed: int = 0
    also: Mapping[str, Slide] = field(default_factory=dict)
    part: Part | None = None

    def __post_init__(self) -> None:
        for label, slide in self.also.items():
            if (slide.width, slide.height) != self.size:
                raise OptionError(
                    "also",
                    f"{label}={slide.path}",
                    f"it is {slide.width}x{slide.height} px, {self.sr.path} is "
                    f"{self.sr.width}x{self.sr.height} px; results that are compared lie on one "
                    "grid: give those of the same input and scale",
                )

    @property
    def size(self) -> tuple[int, int]:
        """Gives (width, height) of SR in px."""
        return self.sr.width, self.sr.height

    @cached_property
    def thumbnail(self) -> Image:
        """Gives the overview of SR."""
        return overview(self.sr, max(1.0, max(self.size) / OVERVIEW_SIDE))

    @cached_property
    def scale(self) -> int | None:
        """Tells how many SR px an LR px is wide; None without LR.

        Raises:
            OptionError: it is no whole number, or LR lacks the part that SR shows.
        """
        if self.lr is None:
            return None
        if self._is_part:
            return self._scale_of_part(self.lr)
        scale = round(self.sr.width / self.lr.width)
        fits = abs(self.lr.width * scale - self.sr.width) < scale
        fits &= abs(self.lr.height * scale - self.sr.height) < scale
        if scale < 1 or not fits:
            raise OptionError(
                "lr",
                self.lr.path,
                f"{self.lr.width}x{self.lr.height} px are no whole fraction of {self.sr.path} "
                f"({self.sr.width}x{self.sr.height} px); give the level-0 image that was upscaled",
            )
        return scale

    @property
    def _is_part(self) -> bool:
        """Tells whether SR's place in LR is what its provenance says, not the whole."""
        if self.part is None or self.lr is None:
            return False
        x, y, scale = self.part
        sides = (self.sr.width, self.lr.width), (self.sr.height, self.lr.height)
        return (x, y) != (0, 0) or all(own <= (other + 1) * scale for own, other in sides)

    def _scale_of_part(self, lr: Slide) -> int:
        """Gives the scale that SR was made by, where LR has the part that it shows."""
        assert self.part is not None
        x, y, scale = self.part
        right, bottom = x + self.sr.width, y + self.sr.height
        inside = right < (lr.width + 1) * scale and bottom < (lr.height + 1) * scale
        if not inside or x % scale or y % scale:
            raise OptionError(
                "lr",
                lr.path,
                f"{self.sr.path} shows {self.sr.width}x{self.sr.height} px at ({x}, {y}) of its "
                f"input at {scale} times its size, and {lr.width}x{lr.height} px do not hold them; "
                "give the level-0 image that was upscaled",
            )
        return scale

    @cached_property
    def locations(self) -> tuple[Location, ...]:
        """Gives the tissue tiles that lie wholly inside SR, HR and LR, row by row.

        Raises:
            SlideError: there is none.
            UsageError: SR is too small.
        """
        step = self.scale or 1
        side = min(self.tile_size, *self.size) // step * step
        if side < LEAST_SIDE:
            raise UsageError(f"{self.sr.path} is smaller than {LEAST_SIDE} px: too little to judge")
        found = tuple(self._tissue_tiles(side))
        if not found:
            raise self._nothing_to_judge(side)
        if self.count is None or self.count >= len(found):
            return found
        random = np.random.default_rng(self.seed)
        drawn = sorted(random.choice(len(found), self.count, replace=False))
        return tuple(found[index] for index in drawn)

    def _tissue_tiles(self, side: int) -> Iterator[Location]:
        # the pixel size is known, or given, even where the slide records none
        tissue = tissue_mask(select_view(self.sr, level=0, input_mpp=self.mpp), margin=0)
        for y in range(0, self.sr.height - side + 1, side):
            for x in range(0, self.sr.width - side + 1, side):
                enough = tissue.share(x, y, side, side) >= LEAST_TISSUE
                if enough and self._is_inside(x, y, side):
                    yield Location(f"x{x}_y{y}", self.sr.path.name, x, y, side, side)

    def load(self, location: Location) -> TileImages:
        """Reads the images of a location; HR is resampled where it does not lie on SR's grid.

        Args:
            location: one of `locations`.

        Returns:
            Its images.

        Raises:
            SlideError: one of the slides cannot be read there.
        """
        window = location.x, location.y, location.width, location.height
        hr = None
        if self.hr is not None and self.matrix is not None:
            hr = read_aligned(self.hr, self.matrix, *window)
        lr = bicubic = None
        if self.lr is not None and self.scale is not None:
            lr, bicubic = _read_enlarged(self.lr, self.scale, self._in_lr(window))
        also = {name: slide.read(0, *window) for name, slide in self.also.items()}
        return TileImages(self.sr.read(0, *window), hr, lr, bicubic, also)

    def _in_lr(self, window: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        """Gives a window of SR in px of the whole enlarged LR."""
        x, y, width, height = window
        left, top = (self.part.x, self.part.y) if self.part is not None else (0, 0)
        return (x + left, y + top, width, height) if self._is_part else window

    def _nothing_to_judge(self, side: int) -> SlideError:
        """Explains why a slide has no tile: no tissue, or none that HR shows too."""
        if self.hr is None or self.matrix is None:
            return SlideError(
                f"{self.sr.path} has no {side} px tile of tissue; choose a smaller <tile_size>"
            )
        own, other = (
            np.array([[0, 0], [s.width, 0], [s.width, s.height], [0, s.height]], np.float32)
            for s in (self.sr, self.hr)
        )
        mapped = (own @ self.matrix[:, :2].T + self.matrix[:, 2]).astype(np.float32)
        common, _ = cv2.intersectConvexConvex(mapped, other)
        if common <= 0:
            return SlideError(
                f"{self.sr.path} and {self.hr.path} have no area in common where registration or "
                "<transform> puts them; check the files and the matrix"
            )
        return SlideError(
            f"what {self.sr.path} and {self.hr.path} have in common holds no {side} px tile of "
            "tissue; choose a smaller <tile_size> or check the registration"
        )

    def _is_inside(self, x: int, y: int, side: int) -> bool:
        """Tells whether HR shows all of a tile."""
        if self.hr is None or self.matrix is None:
            return True
        corners = np.array([[x, y], [x + side, y], [x, y + side], [x + side, y + side]])
        mapped = corners @ self.matrix[:, :2].T + self.matrix[:, 2]
        limit = np.array([self.hr.width, self.hr.height])
        return bool((mapped >= -0.5).all() and (mapped <= limit + 0.5).all())


def _read_enlarged(slide: Slide, scale: int, window: tuple[int, ...]) -> tuple[Image, Image]:
    """Reads LR for a window of SR, and enlarges it as if the whole slide had been enlarged."""
    margin = BICUBIC_MARGIN
    x, y, width, height = (value // scale for value in window)
    around = _read_replicated(
        slide, x - margin, y - margin, width + 2 * margin, height + 2 * margin
    )
    lr = np.ascontiguousarray(around[margin:-margin, margin:-margin])
    cut = slice(margin * scale, -margin * scale)
    return lr, np.ascontiguousarray(bicubic_upsample(around, scale)[cut, cut])


def _read_replicated(slide: Slide, x: int, y: int, width: int, height: int) -> Image:
    """Reads a window whose part beyond the slide repeats the slide's border, as resizing does."""
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + width, slide.width), min(y + height, slide.height)
    inside = slide.read(0, left, top, right - left, bottom - top)
    beyond = (top - y, y + height - bottom, left - x, x + width - right)
    return np.asarray(cv2.copyMakeBorder(inside, *beyond, cv2.BORDER_REPLICATE), dtype=np.uint8)
