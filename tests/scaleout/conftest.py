from __future__ import annotations

from tests.engine.conftest import model_folder, slide

__all__ = ["model_folder", "slide"]
