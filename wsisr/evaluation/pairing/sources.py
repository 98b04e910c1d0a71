"""Where tiles to be judged come from: registered slides or folders of images, tile by tile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from wsisr.errors import SlideError, UsageError
from wsisr.evaluation.measures import Image
from wsisr.evaluation.pairing.registration import read_aligned
from wsisr.resize import area_downsample, bicubic_upsample
from wsisr.slides import Slide, overview

TILE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff"})
LEAST_TISSUE = 0.5
"""Share of tissue a sampled tile has at least."""
BICUBIC_MARGIN = 4
"""LR pixels read around a window, so that its bicubic enlargement equals the whole slide's."""
OVERVIEW_SIDE = 1024


@dataclass(frozen=True)
class Place:
    """A tile: its name, its window in level-0 px of SR, and the slide or folder it belongs to."""

    name: str
    group: str
    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class Views:
    """The pixels of one place. `hr`, `lr` and `bicubic` are None where there is none."""

    sr: Image
    hr: Image | None
    lr: Image | None
    bicubic: Image | None
    also: Mapping[str, Image] = field(default_factory=dict)
    """{label: the same place in other results}."""


class Source(Protocol):
    """Tiles to be judged. `load` may be called from several threads at once."""

    @property
    def mpp(self) -> float:
        """Return um/px of SR."""
        ...

    @property
    def places(self) -> Sequence[Place]:
        """Return the tiles, in order."""
        ...

    @property
    def thumbnail(self) -> Image | None:
        """Return SR reduced to at most 1024 px a side, None where tiles have no common place."""
        ...

    @property
    def size(self) -> tuple[int, int] | None:
        """Return (width, height) of SR in px, None where tiles have no common place."""
        ...

    @property
    def matrix(self) -> npt.NDArray[np.float64] | None:
        """Return the (2, 3) matrix from SR's level-0 px to HR's; None without a common place."""
        ...

    def load(self, place: Place) -> Views:
        """Return the pixels; `WsisrError` where they cannot be read."""
        ...


@dataclass(frozen=True, eq=False)
class SlideSource:
    """Tissue tiles of a slide, with the same places of its reference and of its input.

    Holds an overview of at most 1024 px a side; a tile's pixels live only while it is judged.
    `matrix` maps SR's level-0 pixels to HR's. `count` tiles are drawn by `seed`, None takes all.
    """

    sr: Slide
    mpp: float
    hr: Slide | None = None
    lr: Slide | None = None
    matrix: npt.NDArray[np.float64] | None = None
    tile: int = 512
    count: int | None = None
    seed: int = 0
    also: Mapping[str, Slide] = field(default_factory=dict)
    """{label: another result on SR's grid}."""

    def __post_init__(self) -> None:
        for label, slide in self.also.items():
            if (slide.width, slide.height) != self.size:
                raise UsageError(
                    f"--also {label}={slide.path} is {slide.width}x{slide.height} px, "
                    f"{self.sr.path} {self.sr.width}x{self.sr.height} px; results that are "
                    "compared lie on one grid: give those of the same input and scale"
                )

    @property
    def size(self) -> tuple[int, int]:
        """Return (width, height) of SR."""
        return self.sr.width, self.sr.height

    @cached_property
    def thumbnail(self) -> Image:
        """Return the overview of SR."""
        return overview(self.sr, self._thumbnail_factor)

    @property
    def _thumbnail_factor(self) -> float:
        """Return how many SR px a px of the overview is wide."""
        return max(1.0, max(self.size) / OVERVIEW_SIDE)

    @cached_property
    def scale(self) -> int | None:
        """Return how many SR px an LR px is wide; None without LR.

        Raises `UsageError` where it is no whole number.
        """
        if self.lr is None:
            return None
        scale = round(self.sr.width / self.lr.width)
        fits = abs(self.lr.width * scale - self.sr.width) < scale
        fits &= abs(self.lr.height * scale - self.sr.height) < scale
        if scale < 1 or not fits:
            raise UsageError(
                f"--lr {self.lr.path} ({self.lr.width}x{self.lr.height} px) is no whole fraction "
                f"of {self.sr.path} ({self.sr.width}x{self.sr.height} px); give the level-0 image "
                "that was upscaled"
            )
        return scale

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Return the tissue tiles that lie wholly inside SR, HR and LR, row by row."""
        step = self.scale or 1
        side = min(self.tile, *self.size) // step * step
        if side < 32:
            raise UsageError(f"{self.sr.path} is smaller than 32 px: too little to judge")
        tissue = tissue_mask(self.thumbnail).astype(np.float32)
        factor = self._thumbnail_factor
        found = []
        for y in range(0, self.sr.height - side + 1, side):
            for x in range(0, self.sr.width - side + 1, side):
                box = [round(v / factor) for v in (y, y + side, x, x + side)]
                part = tissue[box[0] : max(box[1], box[0] + 1), box[2] : max(box[3], box[2] + 1)]
                if part.size and part.mean() >= LEAST_TISSUE and self._inside(x, y, side):
                    found.append(Place(f"x{x}_y{y}", self.sr.path.name, x, y, side, side))
        if not found:
            raise self._nothing_to_judge(side)
        if self.count is None or self.count >= len(found):
            return tuple(found)
        random = np.random.default_rng(self.seed)
        drawn = sorted(random.choice(len(found), self.count, replace=False))
        return tuple(found[index] for index in drawn)

    def load(self, place: Place) -> Views:
        """Return the pixels of a place; HR resampled onto SR's grid where it does not lie on it."""
        x, y, width, height = place.x, place.y, place.width, place.height
        sr = self.sr.read(0, x, y, width, height)
        hr = None
        if self.hr is not None and self.matrix is not None:
            hr = read_aligned(self.hr, self.matrix, x, y, width, height)
        lr = bicubic = None
        if self.lr is not None and self.scale is not None:
            s, m = self.scale, BICUBIC_MARGIN
            left, top, columns, rows = x // s, y // s, width // s, height // s
            around = _read_replicated(self.lr, left - m, top - m, columns + 2 * m, rows + 2 * m)
            lr = np.ascontiguousarray(around[m:-m, m:-m])
            enlarged = bicubic_upsample(around, s)
            bicubic = np.ascontiguousarray(enlarged[m * s : -m * s, m * s : -m * s])
        also = {name: slide.read(0, x, y, width, height) for name, slide in self.also.items()}
        return Views(sr, hr, lr, bicubic, also)

    def _nothing_to_judge(self, side: int) -> SlideError:
        """Return the error for a slide without a tile: no tissue, or none that HR shows too."""
        if self.hr is None or self.matrix is None:
            return SlideError(
                f"{self.sr.path} has no {side} px tile of tissue; choose a smaller --tile-size"
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
                "--transform puts them; check the files and the matrix"
            )
        return SlideError(
            f"what {self.sr.path} and {self.hr.path} have in common holds no {side} px tile of "
            "tissue; choose a smaller --tile-size or check the registration"
        )

    def _inside(self, x: int, y: int, side: int) -> bool:
        if self.hr is None or self.matrix is None:
            return True
        corners = np.array([[x, y], [x + side, y], [x, y + side], [x + side, y + side]])
        mapped = corners @ self.matrix[:, :2].T + self.matrix[:, 2]
        limit = np.array([self.hr.width, self.hr.height])
        return bool((mapped >= -0.5).all() and (mapped <= limit + 0.5).all())


@dataclass(frozen=True, eq=False)
class FolderSource:
    """Pairs of image files of the same relative name (suffixes may differ) in two folders.

    LR tiles come from `lr` where given, else from HR by an area average by `scale`; without a
    scale there are none. Raises `UsageError` on construction where the folders do not match.
    """

    sr: Path
    hr: Path
    lr: Path | None = None
    scale: int | None = None
    mpp: float = 0.25
    also: Mapping[str, Path] = field(default_factory=dict)
    """{label: folder of another result}."""

    def __post_init__(self) -> None:
        for folder in filter(None, (self.hr, self.lr, *self.also.values())):
            _refuse_unmatched(self.sr, self._files[self.sr], folder, self._files[folder])

    @cached_property
    def _files(self) -> dict[Path, dict[str, Path]]:
        folders = (self.sr, self.hr, self.lr, *self.also.values())
        return {folder: image_files(folder) for folder in folders if folder}

    @property
    def size(self) -> None:
        """Return None: tiles of a folder have no common place."""
        return

    @property
    def thumbnail(self) -> None:
        """Return None, as `size`."""
        return

    @property
    def matrix(self) -> None:
        """Return None, as `size`."""
        return

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Return one place a file, grouped by sub-folder."""
        return tuple(
            Place(key, str(Path(key).parent), 0, 0, 0, 0) for key in sorted(self._files[self.sr])
        )

    def load(self, place: Place) -> Views:
        """Return the pixels; `SlideError` for a file that cannot be decoded or has another size."""
        hr = read_image(self._files[self.hr][place.name])
        sr = self._like(hr, self.sr, place)
        also = {label: self._like(hr, folder, place) for label, folder in self.also.items()}
        if self.lr is not None:
            lr = read_image(self._files[self.lr][place.name])
            scale = sr.shape[0] // max(1, lr.shape[0])
            if scale < 1 or (lr.shape[0] * scale, lr.shape[1] * scale) != sr.shape[:2]:
                raise SlideError(f"{self.lr / place.name} is no whole fraction of its SR tile")
        elif self.scale is not None:
            scale, lr = self.scale, area_downsample(hr, self.scale)
        else:
            return Views(sr, hr, None, None, also)
        return Views(sr, hr, lr, bicubic_upsample(lr, scale), also)

    def _like(self, hr: Image, folder: Path, place: Place) -> Image:
        path = self._files[folder][place.name]
        image = read_image(path)
        if image.shape != hr.shape:
            raise SlideError(
                f"{path} is {image.shape[1]}x{image.shape[0]} px, its reference "
                f"{hr.shape[1]}x{hr.shape[0]} px; make both the same size"
            )
        return image


def _read_replicated(slide: Slide, x: int, y: int, width: int, height: int) -> Image:
    """Return a window whose part beyond the slide repeats the slide's border, as resizing does."""
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + width, slide.width), min(y + height, slide.height)
    inside = slide.read(0, left, top, right - left, bottom - top)
    beyond = (top - y, y + height - bottom, left - x, x + width - right)
    return np.asarray(cv2.copyMakeBorder(inside, *beyond, cv2.BORDER_REPLICATE), dtype=np.uint8)


def tissue_mask(image: Image) -> npt.NDArray[np.bool_]:
    """Return where an overview shows stained tissue: coloured, and darker than glass.

    (h, w) bool. Grey pen, dust and black borders have no colour; glass has neither.
    """
    smooth = cv2.GaussianBlur(image, (0, 0), 1.0).astype(np.int16)
    colour = smooth.max(axis=2) - smooth.min(axis=2)
    return np.asarray((colour > 12) & (smooth.min(axis=2) < 235))


def read_image(path: Path) -> Image:
    """Return an image file as (h, w, 3) uint8 RGB; `SlideError` where it cannot be decoded."""
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if pixels is None:
        raise SlideError(f"{path} cannot be decoded as an image; remove or replace it")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def image_files(folder: Path) -> dict[str, Path]:
    """Return {relative path without suffix: file}; `UsageError` for no folder or no images."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder of tiles")
    found = {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in TILE_SUFFIXES
    }
    if not found:
        raise UsageError(f"{folder} holds no image files ({', '.join(sorted(TILE_SUFFIXES))})")
    return found


def _refuse_unmatched(
    first: Path, own: Mapping[str, Path], second: Path, other: Mapping[str, Path]
) -> None:
    for folder, lacking in (
        (second, sorted(own.keys() - other.keys())),
        (first, sorted(other.keys() - own.keys())),
    ):
        if lacking:
            more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
            raise UsageError(
                f"{folder} lacks {', '.join(lacking[:5])}{more}; tiles pair by relative name"
            )
