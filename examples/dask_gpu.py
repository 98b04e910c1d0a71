"""Upscales one slide on all GPUs of a machine by dask-cuda: python examples/dask_gpu.py IN OUT.

It needs `pip install 'wsisr[dask]' dask-cuda`. On one machine `wsisr upscale --gpus all` does the
same without a cluster; this is how a cluster of several such machines begins. With --local the
workers are processes on the CPU, to try it without a GPU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import distributed

import wsisr


def open_cluster(*, local: bool) -> Any:
    """Starts a worker for each GPU."""
    if local:
        return distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    from dask_cuda import LocalCUDACluster

    return LocalCUDACluster(threads_per_worker=1, resources={"GPU": 1})


def main(arguments: Sequence[str] | None = None) -> int:
    """Starts workers, upscales the slide in bands, and prints the rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, metavar="IN")
    parser.add_argument("output", type=Path, metavar="OUT")
    parser.add_argument("--local", action="store_true", help="use the CPU of this machine")
    parser.add_argument("--scale", type=float, default=4)
    parser.add_argument("--model", default="tiny")
    options = parser.parse_args(arguments)
    with open_cluster(local=options.local) as cluster:
        result = wsisr.upscale(
            options.source,
            options.output,
            scheduler=cluster.scheduler_address,
            scale=options.scale,
            model=options.model,
        )
    rate = result.width * result.height / 1e6 / result.seconds
    print(f"{result.output}: {result.width}x{result.height} px, {rate:.3g} MPix/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
