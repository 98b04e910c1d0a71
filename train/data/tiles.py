"""High-resolution tiles, and random crops of them."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from train.data.shards import Tile, find_tiles
from train.errors import DataError
from wsisr.errors import UsageError

log = logging.getLogger(__name__)

MEMORY = 4 << 30
"""Bytes of decoded tiles that are kept in memory; larger sets are decoded as they are used."""
MAX_UNREADABLE = 0.01
"""Part of the tiles that may be unreadable; more is an error."""
UNREADABLE = (OSError, SyntaxError, ValueError, RuntimeError)
"""What Pillow's decoders raise for damaged files; RuntimeError is AVIF's."""

MAGNIFIED = 0.5
"""Part of the crops that `random_crops` magnifies, where a magnification is given."""
ENLARGED = 0.05
"""Part of the crops that `random_crops` enlarges, where an enlargement is given."""


class Pixels(Protocol):
    """Decoded tiles: an array (tiles, height, width, 3) uint8, or what reads like one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(tiles, height, width, 3)."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any, /) -> NDArray[np.uint8]: ...

    def __iter__(self) -> Iterator[Any]: ...


@dataclass(frozen=True)
class TileSet:
    """The tiles of one split.

    Attributes:
        names: `slide/file` of each tile, sorted.
        pixels: (tiles, height, width, 3) uint8 RGB.
    """

    names: tuple[str, ...]
    pixels: Pixels

    @property
    def slides(self) -> tuple[str, ...]:
        """The slides the tiles come from, sorted; tiles outside any folder name none."""
        return slides_of(self.names)


def slides_of(names: Iterable[str]) -> tuple[str, ...]:
    """Gives the slides that names of tiles begin with, sorted."""
    return tuple(sorted({slide for slide in map(slide_of, names) if slide}))


def slide_of(name: str) -> str:
    """Gives the slide that the name of a tile begins with, empty outside any folder."""
    parts = PurePosixPath("/", name).parts[1:]
    return parts[0] if len(parts) > 1 else ""


def check_apart(data: Path) -> None:
    """Checks that no slide is both learnt from and validated on, in train/ and val/ of `data`.

    Tiles outside any folder do not say their slide and are not compared.

    Raises:
        DataError: a slide is in both splits.
    """
    train, val = (
        slides_of(tile.name for tile in find_tiles(data / split)) for split in ("train", "val")
    )
    if both := sorted(set(train) & set(val)):
        more = f" (and {len(both) - 1} more)" if len(both) > 1 else ""
        raise DataError(
            f"slide {both[0]}{more} is in train/ and val/ of {data}, which flatters validation; "
            "remove it from one, or name the folders of tiles after their slides"
        )


def load_tiles(
    folder: Path,
    limit: int | None = None,
    memory: int = MEMORY,
    slides: Sequence[str] = (),
) -> TileSet:
    """Loads the tiles of a split, from folders of images (one a slide) and from tar shards alike.

    Up to 1 % of unreadable tiles are left out and reported.

    Args:
        folder: for example `tiles/train` of the data package, or a split of
            `python -m train patches`.
        limit: at most so many tiles, spread evenly over the sorted list.
        memory: bytes of decoded tiles to hold; a larger set is decoded as it is used.
        slides: only the tiles of these slides, by name; none takes all.

    Raises:
        UsageError: a limit below 1.
        DataError: no tile, tiles of different sizes, more than 1 % unreadable ones, or a slide
            that has no tile.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit}: must be 1 or more")
    tiles = of_slides(find_tiles(folder), slides, folder)
    if limit is not None and limit < len(tiles):
        tiles = [tiles[i * len(tiles) // limit] for i in range(limit)]
    reader = _Reader(folder, len(tiles))
    shape = next((p.shape for p in map(reader.decode, tiles[:100]) if p is not None), None)
    if shape is None:
        raise DataError(f"{folder}: none of the first {min(100, len(tiles))} tiles can be read")
    reader = _Reader(folder, len(tiles), shape)
    if len(tiles) * int(np.prod(shape)) > memory:
        return TileSet(tuple(t.name for t in tiles), LazyPixels(tiles, reader, shape))
    pixels = np.empty((len(tiles), *shape), np.uint8)
    good: list[Tile] = []
    with ThreadPoolExecutor() as pool:
        for tile, decoded in zip(tiles, pool.map(reader.decode, tiles), strict=True):
            if decoded is not None:
                pixels[len(good)] = decoded
                good.append(tile)
    if len(good) < len(tiles):
        log.warning("%s: %d of %d tiles unreadable, left out", folder, reader.bad, len(tiles))
    return TileSet(tuple(t.name for t in good), pixels[: len(good)])


def of_slides(tiles: Sequence[Tile], slides: Sequence[str], folder: Path) -> list[Tile]:
    """Takes the tiles of some slides.

    Args:
        tiles: of all slides.
        slides: their names; none takes all.
        folder: where the tiles are, for messages.

    Raises:
        DataError: a slide has no tile.
    """
    known = slides_of(tile.name for tile in tiles)
    for slide in slides:
        if slide not in known:
            raise DataError(f"{folder}: no slide {slide} in it; there are {', '.join(known)}")
    return [tile for tile in tiles if not slides or slide_of(tile.name) in slides]


def read_image(data: bytes) -> Image.Image:
    """Decodes an image file to RGB, all of it.

    Raises:
        DataError: it cannot be decoded, or declares more pixels than Pillow takes.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGB")
    except UnidentifiedImageError as error:
        raise DataError("no image that Pillow knows") from error  # its own text names a buffer
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise DataError(str(error)) from error


class _Reader:
    """Decodes tiles and counts those that cannot be."""

    def __init__(self, folder: Path, total: int, shape: tuple[int, ...] | None = None) -> None:
        self.folder, self.total, self.shape = folder, total, shape
        self.failed: set[str] = set()

    @property
    def bad(self) -> int:
        """The number of tiles that could not be decoded."""
        return len(self.failed)

    def decode(self, tile: Tile) -> NDArray[np.uint8] | None:
        """Gives (h, w, 3) uint8, or None for a corrupt tile; more than 1 % of them are an error."""
        try:
            pixels = np.asarray(read_image(tile.read()))
        except (OSError, DataError) as error:
            if tile.name not in self.failed:
                log.warning("%s: skipped, unreadable (%s)", tile.name, error)
            self.failed.add(tile.name)
            if self.shape is not None and self.bad > MAX_UNREADABLE * self.total:
                raise DataError(
                    f"{self.folder}: {self.bad} of {self.total} tiles are unreadable, more than "
                    f"{MAX_UNREADABLE:.0%} (the last is {tile.name}); copy or make them again"
                ) from error
            return None
        if self.shape is not None and pixels.shape != self.shape:
            raise DataError(
                f"{tile.file}: {tile.name} has {pixels.shape[1]}x{pixels.shape[0]} px, others "
                f"{self.shape[1]}x{self.shape[0]}; tiles of one split are of one size"
            )
        return pixels


class LazyPixels:
    """Tiles that are decoded each time they are asked for; see `Pixels`.

    They stand for sets larger than memory. An unreadable tile is replaced by the next readable one.
    """

    def __init__(self, tiles: list[Tile], reader: _Reader, shape: tuple[int, ...]) -> None:
        self._tiles, self._reader = tiles, reader
        self.shape: tuple[int, ...] = (len(tiles), *shape)

    def __len__(self) -> int:
        return len(self._tiles)

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        if isinstance(key, slice):
            picked = [self[i] for i in range(*key.indices(len(self)))]
            return np.stack(picked) if picked else np.empty((0, *self.shape[1:]), np.uint8)
        index = range(len(self))[key]
        for tile in (*self._tiles[index:], *self._tiles[:index]):
            pixels = self._reader.decode(tile)
            if pixels is not None:
                return pixels
        raise DataError(f"{self._reader.folder}: no tile can be read")

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self[i] for i in range(len(self)))


def random_crops(
    tiles: TileSet,
    rng: np.random.Generator,
    batch: int,
    crop: int,
    magnification: float = 1.0,
    enlargement: float = 1.0,
) -> Tensor:
    """Takes random crops with random flips and quarter turns.

    Args:
        tiles: where the crops are taken from.
        rng: where randomness comes from.
        batch: how many crops.
        crop: side in px.
        magnification: half of the crops are taken up to so many times larger and reduced, with an
            antialiasing filter: nuclei of other sizes, under optics that are sharper per pixel.
        enlargement: some (`ENLARGED`) are taken up to so many times smaller, in logarithms, and
            interpolated: empty magnification, as of scans that record more pixels than their optics
            resolve, where the right answer to a smooth image is a smooth image.

    Returns:
        (batch, 3, crop, crop) float32 in [0, 1].

    Raises:
        DataError: the tiles are smaller than the crop.
    """
    _, height, width, _ = tiles.pixels.shape
    if crop * magnification > min(height, width):
        times = f" times {magnification:g}" if magnification > 1 else ""
        raise DataError(f"tiles of {width}x{height} px are smaller than a crop of {crop} px{times}")
    out = torch.empty((batch, 3, crop, crop))
    for slot in out:
        tile = tiles.pixels[rng.integers(len(tiles.pixels))]
        side = crop
        if magnification > 1 and rng.random() < MAGNIFIED:
            side = round(crop * rng.uniform(1, magnification))
        if enlargement > 1 and rng.random() < ENLARGED:
            side = math.ceil(crop / enlargement ** rng.random())
        y, x = rng.integers(height - side + 1), rng.integers(width - side + 1)
        patch = np.rot90(tile[y : y + side, x : x + side], int(rng.integers(4)))
        patch = patch[:, ::-1] if rng.integers(2) else patch
        pixels = to_tensor(np.ascontiguousarray(patch)[None])
        if side != crop:
            pixels = F.interpolate(
                pixels, (crop, crop), mode="bicubic", align_corners=False, antialias=True
            ).clamp(0, 1)
        slot[:] = pixels[0]
    return out


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """Turns (n, h, w, 3) uint8 into (n, 3, h, w) float32 in [0, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
