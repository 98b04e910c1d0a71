from __future__ import annotations

from pathlib import Path

import pytest
import tifffile

from tests.engine.support import tissue_like
from tests.models.conftest import model_folder

__all__ = ["model_folder"]


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, tissue_like(150, 110), photometric="rgb", tile=(64, 64))
    return path
