"""Real tiles for the tests of measures; made textures where no real data stands."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from wsisr.evaluation import weights
from wsisr.evaluation.measures.pixels import Image

# `make test` fetches the small weights into the virtual environment
os.environ.setdefault(weights.WEIGHTS_VARIABLE, str(Path(sys.prefix) / "weights"))


@pytest.fixture(scope="session")
def tiles(data_dir: Path) -> list[Image]:
    """Five real 512x512 test tiles."""
    paths = sorted((data_dir / "tiles" / "test").rglob("*.png"))[3::20]
    return [np.ascontiguousarray(cv2.imread(str(path))[:, :, ::-1]) for path in paths]


@pytest.fixture
def noise() -> Image:
    """A made 96x128 texture with correlated noise, (96, 128, 3) uint8."""
    field = np.random.default_rng(7).normal(size=(96, 128, 3))
    smooth = cv2.GaussianBlur(field, (0, 0), 1.5)
    return np.clip(150 + 120 * smooth, 0, 255).astype(np.uint8)
