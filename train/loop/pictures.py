"""Images side by side, to look at while a training runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

GAP, TITLE = 8, 18
"""Pixels between columns, and above them."""


def save_strip(file: Path, images: Mapping[str, Tensor]) -> NDArray[np.uint8]:
    """Writes named batches as columns, one row an image; pixels of smaller images are repeated.

    Args:
        file: the picture; its folder is made.
        images: (B, 3, h, w) in [0, 1] each; sides divide the largest one's.

    Returns:
        The picture, (rows, columns, 3) uint8.
    """
    side = max(batch.shape[-1] for batch in images.values())
    columns = [_column(batch, side) for batch in images.values()]
    width = len(columns) * (side + GAP) - GAP
    picture = Image.new("RGB", (width, TITLE + columns[0].shape[0]), "white")
    draw = ImageDraw.Draw(picture)
    for i, (name, column) in enumerate(zip(images, columns, strict=True)):
        picture.paste(Image.fromarray(column), (i * (side + GAP), TITLE))
        draw.text((i * (side + GAP) + 2, 3), name, fill="black")
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file)
    return np.asarray(picture)


def _column(batch: Tensor, side: int) -> NDArray[np.uint8]:
    """Puts the images of a batch below each other, enlarged to `side` px."""
    factor = side // batch.shape[-1]
    levels = (batch.detach().float().cpu().clamp(0, 1) * 255).round().byte()
    pixels = levels.permute(0, 2, 3, 1).numpy().repeat(factor, 1).repeat(factor, 2)
    padded = np.pad(pixels, ((0, 0), (0, GAP), (0, 0), (0, 0)), constant_values=255)
    return padded.reshape(-1, side, 3)[:-GAP]
