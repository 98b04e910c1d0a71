"""High-resolution tiles and random crops of them, addressed by iteration.

A batch is a pure function of (seed, iteration, part): a resumed run sees the very crops that an
uninterrupted one would have seen, and nothing about the data position needs to be stored. The
parts of a global batch are numbered over processes and accumulation steps, so two GPUs see what
one GPU with two accumulation steps sees.
"""

from __future__ import annotations

import io
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from train.data.shards import SUFFIXES as SUFFIXES
from train.data.shards import Tile, find_tiles
from train.errors import DataError
from wsisr.errors import UsageError

log = logging.getLogger(__name__)

MEMORY = 4 << 30
"""Bytes of decoded tiles that are kept in memory; larger sets are decoded when they are asked."""
CORRUPT = 0.01
"""Part of the tiles that may be unreadable; more is an error."""
UNREADABLE = (OSError, SyntaxError, ValueError, RuntimeError)
"""What Pillow's decoders raise for damaged files; RuntimeError is AVIF's."""

MAGNIFIED = 0.5
"""Part of the crops that `random_crops` magnifies, where it is told to."""
ENLARGED = 0.05
"""And the part that it enlarges."""

T = TypeVar("T")
_part: ContextVar[int] = ContextVar("part of the global batch", default=0)


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
    """Tiles of one split.

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
    """The slides that names of tiles begin with, sorted."""
    parts = (PurePosixPath("/", name).parts[1:] for name in names)
    return tuple(sorted({part[0] for part in parts if len(part) > 1}))


def check_apart(data: Path) -> None:
    """Check that no slide is both learnt from and validated on, in train/ and val/ of `data`.

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


def load_tiles(folder: Path, limit: int | None = None, memory: int = MEMORY) -> TileSet:
    """The tiles of a split, from folders of images (one a slide) and from tar shards alike.

    Args:
        folder: for example `tiles/train` of the data package, or a split `train.data.patches` wrote.
        limit: at most so many tiles, spread evenly over the sorted list.
        memory: bytes of decoded tiles to hold; a larger set is decoded as it is used.

    Raises:
        UsageError: a limit below 1.
        DataError: no tile, tiles of different sizes, or more than 1 % unreadable ones. Up to that
            they are left out and reported.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit}: must be 1 or more")
    tiles = find_tiles(folder)
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


def read_image(data: bytes) -> Image.Image:
    """An image file decoded to RGB, all of it.

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
        return len(self.failed)

    def decode(self, tile: Tile) -> NDArray[np.uint8] | None:
        """(h, w, 3) uint8, or None for a corrupt tile; more than 1 % of them raise."""
        try:
            pixels = np.asarray(read_image(tile.read()))
        except (OSError, DataError) as error:
            if tile.name not in self.failed:
                log.warning("%s: skipped, unreadable (%s)", tile.name, error)
            self.failed.add(tile.name)
            if self.shape is not None and self.bad > CORRUPT * self.total:
                raise DataError(
                    f"{self.folder}: {self.bad} of {self.total} tiles are unreadable, more than "
                    f"{CORRUPT:.0%} (the last is {tile.name}); copy or make them again"
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

    Stands for sets larger than memory. An unreadable tile is replaced by the next readable one.
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


def part() -> int:
    """Which part of the global batch is being made; set by `train.loop.training`, else 0."""
    return _part.get()


def set_part(value: int) -> None:
    """Say which part of the global batch follows."""
    _part.set(value)


def batch_rng(seed: int, iteration: int, rank: int | None = None) -> np.random.Generator:
    """The random numbers of one part of an iteration's batch, by default the present `part()`."""
    return np.random.default_rng((seed, iteration, part() if rank is None else rank))


class Feed(Generic[T]):
    """The batches a training asks for, made ahead of time by processes of their own.

    A batch is a pure function of (iteration, part), so who makes it, and how many do, changes
    nothing but the time. A GPU asks faster than one Python process can crop and degrade.
    """

    def __init__(self, make: Callable[[int], T], workers: int, parts: int = 1) -> None:
        """Nothing is made yet.

        Args:
            make: iteration -> the present part's batch, of tensors; it can be pickled.
            workers: processes; with 0 a batch is made when it is asked for.
            parts: accumulation steps of this process.
        """
        self._make, self._workers, self._parts = make, workers, parts
        self._keys: Iterator[tuple[int, int]] = iter(())
        self._batches: Iterator[T] = iter(())
        self._next: tuple[int, int] | None = None
        self._last: tuple[tuple[int, int], T] | None = None

    def __call__(self, iteration: int) -> T:
        """The batch of this iteration and the present part, in pinned memory beside a GPU."""
        if not self._workers:
            # a step runs under autocast; the worker processes do not, and images need more than
            # half precision anyway
            with torch.autocast("cpu", enabled=False):
                return self._make(iteration)
        here = (iteration, part())
        if self._last is not None and self._last[0] == here:
            return self._last[1]  # asked for a second time: the processes are ahead already
        if self._next != here:
            self._start(here)
        batch = next(self._batches)
        self._next, self._last = next(self._keys), (here, batch)
        return batch

    def _start(self, here: tuple[int, int]) -> None:
        loader: DataLoader[T] = DataLoader(
            _Made(self._make),
            batch_size=None,
            sampler=_Keys(here, self._parts),
            num_workers=self._workers,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_by_itself,
        )
        self._batches, self._keys = iter(loader), iter(_Keys(here, self._parts))
        next(self._keys)


def _by_itself(worker: int) -> None:
    """Take a worker out of the group that Ctrl-C and the like go to: the training ends it."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()


class _Made(Dataset[T]):
    def __init__(self, make: Callable[[int], T]) -> None:
        self.make = make

    def __getitem__(self, key: tuple[int, int]) -> T:
        iteration, position = key
        set_part(position)
        return self.make(iteration)


class _Keys(Sampler[tuple[int, int]]):
    """(iteration, part) in the order of the loop, from one of them on, without end."""

    def __init__(self, first: tuple[int, int], parts: int) -> None:
        self.first, self.parts = first, parts

    def __iter__(self) -> Iterator[tuple[int, int]]:
        first, position = self.first
        base = position - position % self.parts
        for iteration in count(first):
            yield from ((iteration, number) for number in range(position, base + self.parts))
            position = base


def random_crops(
    tiles: TileSet,
    rng: np.random.Generator,
    batch: int,
    crop: int,
    magnification: float = 1.0,
    enlargement: float = 1.0,
) -> Tensor:
    """Random crops with random flips and quarter turns.

    Args:
        tiles: where from.
        rng: where randomness comes from.
        batch: how many.
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
    """(n, h, w, 3) uint8 -> (n, 3, h, w) float32 in [0, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
