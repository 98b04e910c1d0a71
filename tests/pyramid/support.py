"""Pictures, a plain reference of the levels, and writing them in a given order."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import tifffile
import zarr

from wsisr.pyramid import PyramidSpec, PyramidWriter, open_writer


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Stain-like blobs with fine grain on glass: smooth enough for JPEG, different everywhere."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(max(2, height // 90), max(2, width // 90), 1)).astype(np.float32)
    density = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    density = np.clip(density.reshape(height, width, 1) + 0.3, 0, 2)
    stain = np.array([60, 110, 70], np.float32)
    grain = rng.normal(0, 2, (height, width, 1)).astype(np.float32)
    return np.clip(240 - density * stain + grain, 0, 255).astype(np.uint8)


def reference_levels(pixels: np.ndarray, count: int) -> list[np.ndarray]:
    """Level after level by 2x2 means in integers, half rounded up, odd edges repeated."""
    levels = [pixels]
    while len(levels) < count:
        image = levels[-1].astype(np.uint16)
        image = np.pad(image, ((0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)), "edge")
        total = image[::2, ::2] + image[1::2, ::2] + image[::2, 1::2] + image[1::2, 1::2]
        levels.append(((total + 2) // 4).astype(np.uint8))
    return levels


def tile_of(pixels: np.ndarray, spec: PyramidSpec, row: int, col: int) -> np.ndarray:
    side = spec.tile
    return pixels[row * side : (row + 1) * side, col * side : (col + 1) * side]


def all_tiles(spec: PyramidSpec) -> list[tuple[int, int]]:
    rows, cols = spec.grid(0)
    return [(row, col) for row in range(rows) for col in range(cols)]


def feed(
    writer: PyramidWriter, pixels: np.ndarray, order: Iterable[tuple[int, int]] | None = None
) -> int:
    """Give every tile that is not done yet; how many were given."""
    given = 0
    for row, col in all_tiles(writer.spec) if order is None else order:
        if not writer.done(row, col):
            writer.write_tile(row, col, tile_of(pixels, writer.spec, row, col))
            given += 1
    return given


def write(path: Path, spec: PyramidSpec, pixels: np.ndarray, **options: object) -> Path:
    with open_writer(path, spec, **options) as writer:  # type: ignore[arg-type]
        feed(writer, pixels)
        writer.finish()
    return path


def decode(path: Path) -> list[np.ndarray]:
    """Every level of an OME-TIFF or OME-Zarr, read by tifffile or zarr-python, as (h, w, 3)."""
    if path.is_file():
        with tifffile.TiffFile(path) as file:
            return [level.asarray() for level in file.series[0].levels]
    group = zarr.open_group(path, mode="r")
    attributes = dict(group.attrs)
    multiscales = attributes.get("ome", attributes)["multiscales"]
    arrays = [group[dataset["path"]] for dataset in multiscales[0]["datasets"]]
    return [np.moveaxis(np.asarray(array[0, :, 0]), 0, -1) for array in arrays]
