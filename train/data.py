"""High-resolution tiles in memory and random crops of them, addressed by iteration.

A batch is a pure function of (seed, iteration, rank): a resumed run sees the very crops that an
uninterrupted one would have seen, and nothing about the data position needs to be stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class TileSet:
    """Tiles of one split.

    Attributes:
        names: `slide/file` of each tile, sorted.
        pixels: (tiles, height, width, 3) uint8 RGB.
    """

    names: tuple[str, ...]
    pixels: NDArray[np.uint8]

    @property
    def slides(self) -> tuple[str, ...]:
        """The slides the tiles come from, sorted."""
        return tuple(sorted({name.split("/")[0] for name in self.names}))


def load_tiles(folder: Path, limit: int | None = None) -> TileSet:
    """Decode all tiles of a split, one sub-folder a slide.

    Args:
        folder: for example `tiles/train` of the data package.
        limit: at most so many tiles, spread evenly over the sorted list.

    Raises:
        FileNotFoundError: the folder holds no tile.
        ValueError: tiles of different sizes.
    """
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES)
    if not files:
        raise FileNotFoundError(f"{folder}: no {'/'.join(SUFFIXES)} tiles in its sub-folders")
    if limit is not None and limit < len(files):
        files = [files[i * len(files) // limit] for i in range(limit)]
    first = np.asarray(Image.open(files[0]).convert("RGB"))
    pixels = np.empty((len(files), *first.shape), np.uint8)
    for slot, file in zip(pixels, files, strict=True):
        with Image.open(file) as image:
            tile = np.asarray(image.convert("RGB"))
        if tile.shape != first.shape:
            raise ValueError(
                f"{file}: {tile.shape[1]}x{tile.shape[0]} px, others are {first.shape}"
            )
        slot[:] = tile
    return TileSet(tuple(f.relative_to(folder).as_posix() for f in files), pixels)


def batch_rng(seed: int, iteration: int, rank: int = 0) -> np.random.Generator:
    """The random numbers of one iteration on one process."""
    return np.random.default_rng((seed, iteration, rank))


def random_crops(tiles: TileSet, rng: np.random.Generator, batch: int, crop: int) -> Tensor:
    """Random crops with random flips and quarter turns.

    Returns:
        (batch, 3, crop, crop) float32 in [0, 1].
    """
    _, height, width, _ = tiles.pixels.shape
    out = np.empty((batch, crop, crop, 3), np.uint8)
    for slot in out:
        tile = tiles.pixels[rng.integers(len(tiles.pixels))]
        y, x = rng.integers(height - crop + 1), rng.integers(width - crop + 1)
        patch = np.rot90(tile[y : y + crop, x : x + crop], int(rng.integers(4)))
        slot[:] = patch[:, ::-1] if rng.integers(2) else patch
    return to_tensor(out)


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """(n, h, w, 3) uint8 -> (n, 3, h, w) float32 in [0, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
