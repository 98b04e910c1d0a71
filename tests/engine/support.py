"""What the tests of the engine share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from wsisr.engine.job import Job


def tissue_like(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Smooth purple blobs on near-white glass."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((height // 8 + 2, width // 8 + 2, 3)) * (90, 160, 60) + (120, 60, 140)
    image = np.asarray(
        Image.fromarray(coarse.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    )
    return image + rng.integers(0, 8, image.shape, np.uint8)


def job(slide: Path, **changes: object) -> Job:
    base = Job(
        slide, slide.with_name("out.ome.tif"), scale=4, model="bicubic", window=128, overlap=32
    )
    return replace(base, **{"compression": "deflate", "input_mpp": 1.0, **changes})


def level0(path: Path) -> np.ndarray:
    return tifffile.imread(path)
