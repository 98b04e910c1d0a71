"""Upscales slides on workers that Slurm starts: python examples/dask_slurm.py SLIDE... --out DIR.

Run it on a login node; it needs `pip install 'wsisr[dask]' dask-jobqueue`, and a file system that
the nodes share. PBS, LSF and Grid Engine have clusters of the same interface in dask-jobqueue. With
--local the workers are processes of this machine, to try it without a queue.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import distributed

import wsisr


def open_cluster(workers: int, queue: str | None, *, local: bool) -> Any:
    """Starts workers, each with a GPU where Slurm gives one, and each with one slide at a time."""
    if local:
        return distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=None
        )
    from dask_jobqueue import SLURMCluster

    cluster: Any = SLURMCluster(
        queue=queue,
        cores=1,
        processes=1,
        job_cpu=8,
        memory="32GB",
        walltime="24:00:00",
        job_extra_directives=["--gres=gpu:1"],
        # by this the tasks go to workers that have a GPU
        worker_extra_args=["--resources", "GPU=1"],
    )
    cluster.scale(jobs=workers)
    return cluster


def main(arguments: Sequence[str] | None = None) -> int:
    """Starts workers, upscales, and prints what became of each slide."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slides", nargs="+", help="slides, folders, or a manifest")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--workers", type=int, default=8, help="jobs; default: 8")
    parser.add_argument("--queue", help="partition of Slurm")
    parser.add_argument("--local", action="store_true", help="start the workers on this machine")
    parser.add_argument("--scale", type=float, default=4)
    parser.add_argument("--model", default="tiny")
    options = parser.parse_args(arguments)
    with open_cluster(options.workers, options.queue, local=options.local) as cluster:
        result = wsisr.batch(
            options.slides,
            options.out,
            scheduler=cluster.scheduler_address,
            scale=options.scale,
            model=options.model,
        )
    for row in result.rows:
        print(row.id, row.status, row.reason)
    return 1 if result.count("failed") else 0


if __name__ == "__main__":
    sys.exit(main())
