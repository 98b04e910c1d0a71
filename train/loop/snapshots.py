"""Exports of several iterations, kept so that they can be compared."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path


def keep_snapshot(out: Path, done: int) -> None:
    """Copies what the validation has exported to `snapshots/ITERATION`.

    Args:
        out: folder of the run.
        done: iterations that were done.
    """
    place = out / "snapshots" / f"{done:07d}"
    for source in _exports(out):
        place.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, place / source.name, dirs_exist_ok=True)
        else:
            shutil.copy2(source, place)


def _exports(out: Path) -> Iterator[Path]:
    """Yields the folders of parts and of whole models, and loose tensors."""
    for card in ("config.json", "model.json"):
        yield from (file.parent for file in out.glob(f"*/{card}"))
    yield from out.glob("*.safetensors")
