"""What the commands that run a model share: telling people and other programs how it goes."""

from __future__ import annotations

import dataclasses
import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wsisr.cli.progress import progress_bar, show_foresight

if TYPE_CHECKING:
    from wsisr.engine import Foresight, Job, Result
    from wsisr.progress import State


def run_and_tell(job: Job, log_json: Path | None, scheduler: str | None = None) -> Result:
    """Upscales a slide, and says how it goes.

    Args:
        job: what is asked for.
        log_json: file that events are appended to; None appends none.
        scheduler: of a Dask cluster that computes the slide; None computes it here.

    Raises:
        WsisrError: what is wrong with which file or option, and what to do.
    """
    import wsisr

    if log_json is None:
        with progress_bar("window") as progress:
            return wsisr.upscale(
                job, progress=progress, announce=show_foresight, scheduler=scheduler
            )
    from wsisr.scaleout import open_events

    with ExitStack() as stack:
        events = stack.enter_context(open_events(log_json, job))
        bar = stack.enter_context(progress_bar("window"))

        def announce(foresight: Foresight) -> None:
            show_foresight(foresight)
            events.announce(foresight)

        def progress(state: State) -> None:
            bar(state)
            events.progress(state)

        result = wsisr.upscale(job, progress=progress, announce=announce, scheduler=scheduler)
        events.finished(result)
        return result


def show_plan(job: Job, as_json: bool) -> None:
    """Prints on stdout what a run will be.

    Args:
        job: what is asked for.
        as_json: whether as one JSON object.

    Raises:
        WsisrError: what is wrong with which file or option, and what to do.
    """
    import wsisr
    from wsisr.progress import as_duration, as_size

    plan = wsisr.foresee(job)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(plan)))
        return
    free = shutil.disk_usage(job.output.parent).free if job.output.parent.is_dir() else None
    steps = f", {plan.steps} steps" if plan.steps else ""
    precision = f", {plan.precision}" if plan.precision else ""
    rows = {
        "output": f"{plan.width}x{plan.height} px, {plan.magnification:g}x ({plan.mpp:.4g} um/px)",
        "windows": f"{plan.windows}, the model runs on {plan.tissue_windows}",
        "tissue": f"{100 * plan.tissue_share:.0f} % of the area",
        "model": f"{plan.model} on {plan.device}{precision}{steps}",
        "disk": f"{as_size(plan.output_bytes)}, {as_size(plan.disk_bytes)} while it runs"
        + ("" if free is None else f"; {as_size(free)} are free"),
        "memory": as_size(plan.memory_bytes),
        "time": "unknown" if plan.seconds is None else f"about {as_duration(plan.seconds)}",
    }
    for name, text in rows.items():
        click.echo(f"{name + ':':<9}{text}")
