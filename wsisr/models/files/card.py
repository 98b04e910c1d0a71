"""TODO-DOC"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsisr.errors import ModelError
from wsisr.models.files.checkpoint import PICKLES

FORMAT = "wsisr-model"


VERSION = 1


@dataclass(frozen=True)
class ModelCard:
    """The contents of model.json.

    Attributes:
        name: what the model is called in provenance records.
        parts: part -> class name.
        scales: factors it was trained for.
        schedule: arguments of `make_schedule`.
        sampling: the model's own values of `Settings` fields.
        base: where parts that the folder lacks come from (see `wsisr.models.files.base`).
        at: one of `scales` -> what takes the place of values of `sampling` there.
    """

    name: str
    parts: Mapping[str, str]
    scales: tuple[float, ...] = ()
    schedule: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    base: str | None = None
    at: Mapping[float, Mapping[str, Any]] = field(default_factory=dict)

    def nearest(self, scale: float | None) -> float | None:
        """The one of `scales` whose weights and settings serve a factor: the nearest as a ratio (of
        two equally near ones the smaller); None without scales or without a factor.
        """
        if scale is None or not self.scales:
            return None
        return min(sorted(self.scales), key=lambda n: abs(math.log2(n / scale)))

    def sampling_at(self, scale: float | None) -> dict[str, Any]:
        """The model's own settings for a factor; without one those that `at` says nothing of."""
        nearest = self.nearest(scale)
        return {**self.sampling, **({} if nearest is None else self.at.get(nearest, {}))}


def read_card(folder: Path) -> ModelCard:
    """Read and check model.json.

    Raises:
        ModelError: it is missing, no JSON, of another format or version, or lacks a part.
    """
    file = folder / "model.json"
    if not folder.is_dir():
        kind = (
            "pickled weights are refused, since loading them can run code"
            if (folder.suffix in PICKLES)
            else "a model is a folder with a model.json"
        )
        raise ModelError(f"{folder}: {kind}")
    if not file.is_file():
        raise ModelError(f"{folder}: no model.json in it; not a wsisr model folder")
    try:
        content = json.loads(file.read_text())
    except (ValueError, OSError, RecursionError) as error:
        raise ModelError(f"{file}: not readable as JSON ({error})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ModelError(f"{file}: not a {FORMAT} description")
    if content.get("version") != VERSION:
        raise ModelError(f"{file}: version {content.get('version')!r}, this wsisr reads {VERSION}")
    parts = content.get("parts")
    if not isinstance(parts, dict) or "restoration" not in parts:
        raise ModelError(
            f"{file}: lists no part `restoration`; convert the checkpoint of stage 1 together "
            "with that of stage 2 (wsisr models convert CKPT CKPT OUT)"
        )
    if "controlnet" not in parts and ("unet" in parts or "vae" in parts):
        raise ModelError(f"{file}: stage 2 lacks controlnet")
    for key in ("schedule", "sampling"):
        if not isinstance(content.get(key, {}), dict):
            raise ModelError(f"{file}: `{key}` is not an object")
    if not all(isinstance(name, str) for name in parts.values()):
        raise ModelError(f"{file}: a part's class is not a name")
    scales = content.get("scales", [])
    if not isinstance(scales, list) or not all(isinstance(n, int | float) for n in scales):
        raise ModelError(f"{file}: `scales` is not a list of numbers")
    at = content.get("at", {})
    if not isinstance(at, dict) or not all(isinstance(own, dict) for own in at.values()):
        raise ModelError(f"{file}: `at` does not hold settings for each scale")
    if unknown := sorted(set(at) - {f"{scale:g}" for scale in scales}):
        raise ModelError(f"{file}: `at` names {unknown[0]!r}, which is none of its scales")
    if not all(math.isfinite(scale) and scale > 0 for scale in scales):
        raise ModelError(f"{file}: `scales` must be above 0")
    for settings in (content.get("sampling", {}), *at.values()):
        for name in ("steps", "start_timestep", "seed"):
            value = settings.get(name, 0)
            if not isinstance(value, int) or isinstance(value, bool):
                raise ModelError(f"{file}: `{name}` cannot be {value!r}")
    return ModelCard(
        str(content.get("name", folder.name)),
        parts,
        tuple(content.get("scales", ())),
        content.get("schedule", {}),
        content.get("sampling", {}),
        content.get("base"),
        {float(scale): own for scale, own in at.items()},
    )
