"""Benches are tested by what they say of small inputs, not by how fast they are."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from wsisr.evaluation.measures.pixels import Image
from wsisr.evaluation.weights import store as weights


@pytest.fixture
def no_weights(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Learned measures take ten times as long as all others together."""
    monkeypatch.setenv(weights.WEIGHTS_VARIABLE, str(tmp_path_factory.mktemp("none")))


@pytest.fixture(scope="session")
def tiles(data_dir: Path) -> list[Image]:
    """Two real 512x512 test tiles."""
    paths = sorted((data_dir / "tiles" / "test").rglob("*.png"))[3:24:20]
    return [np.ascontiguousarray(cv2.imread(str(path))[:, :, ::-1]) for path in paths]
