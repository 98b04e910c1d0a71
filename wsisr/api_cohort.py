"""The public functions for cohorts, many slides by one call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsisr.api import given

if TYPE_CHECKING:
    from wsisr.scaleout.cohort import CohortForesight, CohortResult, Watch


def batch(
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    suffix: str = ".ome.tif",
    gpus: str | None = None,
    workers: int | None = None,
    device: str | None = None,
    scheduler: str | None = None,
    shard: str | None = None,
    retries: int = 1,
    overwrite: bool = False,
    cache: str | Path | None = None,
    cache_gb: float | None = None,
    watch: Watch | None = None,
    **options: Any,
) -> CohortResult:
    """Upscales many slides into a folder; what is finished there is left out.

    One slide that fails stops no other. Several calls, of several machines too, may share the
    folder: each slide is computed once. An interrupted call goes on when it is made again. Workers
    are fresh processes, so a script that calls this needs `if __name__ == "__main__":`.

    Args:
        inputs: slides, folders, patterns and URLs, or one CSV manifest.
        out: folder of the results, of the report, and of the logs.
        suffix: of results that a manifest does not name.
        gpus: numbers of the GPUs that each compute a slide, as `0,1`, or `all`.
        workers: how many slides are computed at once; None is one for each GPU, and else one.
        device: torch device without `gpus`; None is the first GPU, and else the CPU.
        scheduler: of a Dask cluster whose workers compute the slides; None computes them here.
        shard: share of the slides, as `1/8`; None asks the environment of an array of jobs.
        retries: how often a slide is tried again where that can help.
        overwrite: whether results of other settings are replaced.
        cache: folder of the copies of remote slides; None is the user's folder of caches.
        cache_gb: how many GB the copies may take; None is 50.
        watch: told how far the cohort is.
        options: see `UpscaleOptions`; a manifest overrides them slide by slide.

    Returns:
        What became of each slide, and where the report is.

    Raises:
        WsisrError: what is wrong with which input or option.

    Example:
        >>> wsisr.batch(["slides/"], "results", input_mag=10, gpus="0,1")
    """
    from wsisr.scaleout.cohort import run_batch

    return run_batch(
        inputs,
        Path(out),
        given(options),
        suffix=suffix,
        gpus=gpus,
        workers=workers,
        device=device,
        scheduler=scheduler,
        shard=shard,
        retries=retries,
        overwrite=overwrite,
        cache=cache,
        cache_gb=cache_gb,
        watch=watch or (lambda state: None),
    )


def foresee_batch(
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    suffix: str = ".ome.tif",
    gpus: str | None = None,
    workers: int | None = None,
    device: str | None = None,
    shard: str | None = None,
    overwrite: bool = False,
    **options: Any,
) -> CohortForesight:
    """Says what `batch` will do: each slide's run, the disk that all take, and the time.

    A few windows of one slide are computed in the system's temporary folder; elsewhere nothing is
    written. Slides behind URLs are not opened.

    Args:
        inputs: slides, folders, patterns and URLs, or one CSV manifest.
        out: folder of the results.
        suffix: of results that a manifest does not name.
        gpus: see `batch`.
        workers: see `batch`.
        device: see `batch`.
        shard: see `batch`.
        overwrite: see `batch`.
        options: see `UpscaleOptions`.

    Returns:
        What the cohort will be.

    Raises:
        WsisrError: what is wrong with which input or option.
    """
    from wsisr.scaleout.cohort import foresee_batch as run

    return run(
        inputs,
        Path(out),
        given(options),
        suffix=suffix,
        gpus=gpus,
        workers=workers,
        device=device,
        shard=shard,
        overwrite=overwrite,
    )
