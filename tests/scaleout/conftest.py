from __future__ import annotations

import pytest

from tests.engine.conftest import model_folder, slide
from tests.processes import CONTEXT
from wsisr.scaleout import pool

__all__ = ["model_folder", "slide"]


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers without the seconds that their imports take."""
    monkeypatch.setattr(pool, "_CONTEXT", CONTEXT)
