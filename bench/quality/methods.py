"""Loads the methods that the quality table compares: each makes an image of a tile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.quality.tiles import DataSet
from wsisr.errors import UsageError
from wsisr.evaluation.measures import Image
from wsisr.evaluation.pairing import read_image
from wsisr.resize import bicubic_upsample

PIXEL_BASELINES = ("bicubic", "hr")
"""Methods that need neither a model nor files of results."""
Upscale = Callable[[Image, int, DataSet, Path], Image]
"""Takes the LR tile, the scale, and the data set and file of the HR tile; returns the SR tile."""


@dataclass(frozen=True)
class Method:
    """A method to be compared.

    Attributes:
        label: its name in the table.
        target: `bicubic`, `hr` (the real tile itself), a folder of ready results, or any model
            that wsisr knows.
    """

    label: str
    target: str

    @property
    def is_scan(self) -> bool:
        """Tells whether it is the real tile itself, which no method can be better than."""
        return self.target == "hr"

    @property
    def is_ready(self) -> bool:
        """Tells whether it is a folder of results and no model."""
        if self.target in PIXEL_BASELINES:
            return False
        return Path(self.target).is_dir() and not (Path(self.target) / "model.json").exists()


def load_method(
    method: Method, device: str, precision: str | None = None, scale: float | None = None
) -> Upscale:
    """Returns the function that upscales by a method.

    Args:
        method: the method.
        device: where a model runs, for instance `cuda:0`.
        precision: of a model's networks; None for what `wsisr upscale` takes on this machine.
        scale: the scale that a model will be used at.

    Raises:
        ModelError: the model is not there, or broken.
    """
    if method.target == "bicubic":
        return lambda lr, scale, *_: bicubic_upsample(lr, scale)
    if method.is_scan:
        return lambda lr, scale, data, path: read_image(path)
    if method.is_ready:
        root = Path(method.target)
        return lambda lr, scale, data, path: read_image(ready_file(root, scale, data, path))
    # torch and diffusers take seconds to import: pixel baselines do without
    from wsisr.engine import upscale_image
    from wsisr.models import load_upscaler

    settings = {"precision": precision} if precision else {}
    model = load_upscaler(method.target, device=device, settings=settings, scale=scale)
    return lambda lr, scale, *_: upscale_image(lr, scale, model=model)


def ready_file(root: Path, scale: int, data: DataSet, path: Path) -> Path:
    """Returns the ready result for a tile.

    Args:
        root: folder of results: PNG files named like the tiles, or its sub-folders LABEL, `x4` or
            LABEL/`x4` with those.
        scale: the scale of the result.
        data: the tile's data set.
        path: the tile's file.

    Raises:
        UsageError: there is no result for the tile.
    """
    relative = path.relative_to(data.folder).with_suffix(".png")
    folders = (root / data.label / f"x{scale}", root / data.label, root / f"x{scale}", root)
    folder = next(folder for folder in folders if folder.is_dir())
    for candidate in (folder / relative, folder / relative.name):
        if candidate.exists():
            return candidate
    raise UsageError(f"{folder} has no {relative}, the result for tile {path.name}")
