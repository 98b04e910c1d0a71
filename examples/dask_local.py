"""Upscales slides on Dask workers of this machine: python examples/dask_local.py IN --out DIR."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import distributed

import wsisr


def main(arguments: Sequence[str] | None = None) -> int:
    """Starts workers, upscales, and prints what became of each slide."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slides", nargs="+", help="slides, folders, or a manifest")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--workers", type=int, default=2, help="processes; default: 2")
    parser.add_argument("--scale", type=float, default=4)
    parser.add_argument("--model", default="tiny")
    options = parser.parse_args(arguments)
    # one thread a worker: a worker computes one slide at a time, and the model has its own threads
    with distributed.LocalCluster(
        n_workers=options.workers, threads_per_worker=1, dashboard_address=None
    ) as cluster:
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
