"""A process that computes several slides keeps its model between them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from wsisr.engine import InProcess, Run, Stopwatch, window_model
from wsisr.plan import Plan

if TYPE_CHECKING:
    from wsisr.models import Upscaler

_loaded: dict[str, Upscaler] = {}


def open_kept(run: Run, plan: Plan, clock: Stopwatch) -> InProcess:
    """Starts the executor of this process with the model of the last run if it is the same.

    It is an `OpenExecutor`.

    Raises:
        ModelError: the model is missing or broken.
        UsageError: a setting or a device does not do.
    """
    made_by = {k: v for k, v in run.image.provenance.items() if k not in ("input", "region")}
    key = f"{run.model.device} {json.dumps(made_by, sort_keys=True)}"
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = run.model.load()
    model = _loaded[key]
    return InProcess(window_model(run, model), model.device, run.job.batch, clock)
