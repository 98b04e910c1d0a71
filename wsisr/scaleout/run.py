"""A job on the devices it asks for: in this process, or in several that share its windows."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch

from wsisr.engine import (
    Announce,
    Executor,
    Job,
    OpenExecutor,
    Progress,
    Result,
    Run,
    Stopwatch,
    default_batch,
    open_executor,
)
from wsisr.engine import upscale as upscale_here
from wsisr.plan import Plan
from wsisr.scaleout.devices import choose_devices, usable_cores
from wsisr.scaleout.pool import PATIENCE_S, WorkerPool


def upscale(
    job: Job | Run,
    progress: Progress | None = None,
    *,
    scheduler: str | None = None,
    announce: Announce | None = None,
) -> Result:
    """Upscales a slide on the devices that the job asks for.

    Args:
        job: what is asked for, or a run of `prepare`; with `gpus` or `workers` its windows are
            shared.
        progress: called after each window.
        scheduler: of a Dask cluster that computes the slide in bands; None computes it here.
        announce: called with what the run will be, before the first window.

    Raises:
        WsisrError: what is wrong with which file or option, and what to do.
    """
    asked = job.job if isinstance(job, Run) else job
    if scheduler is not None:
        from wsisr.scaleout.cluster import upscale_on

        return upscale_on(scheduler, asked, progress, announce)
    return upscale_here(job, progress, open_executor=opener(asked), announce=announce)


def opener(job: Job) -> OpenExecutor:
    """Gives what opens the devices that a job asks for: this process, or a pool.

    Raises:
        OptionError: no such device, or too many workers.
    """
    if job.gpus is None and job.workers in (None, 1):
        return open_executor
    return pool_opener(choose_devices(job.gpus, job.workers, job.device))


def pool_opener(devices: Sequence[torch.device], patience_s: float = PATIENCE_S) -> OpenExecutor:
    """Gives what opens a pool with a worker on each device.

    Args:
        devices: one a worker; a device may stand there twice.
        patience_s: how long a worker may be silent.
    """
    threads = max(1, usable_cores() // len(devices))

    def open_pool(run: Run, plan: Plan, clock: Stopwatch) -> AbstractContextManager[Executor]:
        # a GPU's batch is known by its worker alone, for asking would touch CUDA here
        on_cpu = devices[0].type == "cpu"
        batch = run.job.batch or (min(threads, default_batch(devices[0])) if on_cpu else 8)
        return WorkerPool(
            run, plan, devices, clock, threads=threads, batch=batch, patience_s=patience_s
        )

    return open_pool
