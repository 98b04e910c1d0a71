from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Textured tiles of two slides a split, in the layout of the data package."""
    folder = tmp_path_factory.mktemp("tiles")
    coarse = np.random.default_rng(0).integers(60, 220, (48, 48, 3), np.uint8)
    resized = Image.fromarray(coarse).resize((128, 128), Image.Resampling.BICUBIC)
    texture = np.asarray(resized)
    for split, count in (("train", 6), ("val", 2)):
        for i in range(count):
            # one texture at several offsets: batches are alike, so that a loss shows its trend
            image = Image.fromarray(np.roll(texture, 16 * i, 0))
            place = folder / split / f"{split}{i % 2}"
            place.mkdir(parents=True, exist_ok=True)
            image.save(place / f"{i}.png")
    return folder
