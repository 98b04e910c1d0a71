"""The functions of the public API that take slides and outputs behind URLs, beside `upscale`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

from wsisr.errors import SlideError
from wsisr.guard import refuse_same_url
from wsisr.urls import is_url, shown

if TYPE_CHECKING:
    from wsisr.evaluation import Evaluation
    from wsisr.progress import Progress
    from wsisr.pyramid import Compression, Layout, Subsampling, ZarrVersion
    from wsisr.transcode import ConvertResult


class ConvertOptions(TypedDict, total=False):
    """What `convert` takes by keyword, as `wsisr.transcode.convert` describes it."""

    tile: int
    compression: Compression
    quality: int
    subsampling: Subsampling
    layout: Layout
    zarr_version: ZarrVersion
    input_mpp: float | None
    input_mag: float | None
    anonymous: bool
    associated: bool
    reencode: bool
    on_tile_error: Literal["fail", "blank"]
    threads: int
    overwrite: bool
    resume: bool | None
    progress: Progress


class EvaluateOptions(TypedDict, total=False):
    """What `evaluate` takes by keyword, as `wsisr.evaluation.evaluate` describes it."""

    tiles: bool
    metrics: str | Sequence[str]
    segmenter: Any
    label: str
    scale: int | None
    transform: Path | str | None
    sr_mpp: float | None
    hr_mpp: float | None
    count: int | None
    tile_size: int
    seed: int
    workers: int | None
    force: bool
    out: Path | str | None
    show_progress: bool


def staged(
    source: str | Path,
    *,
    cache: str | Path | None = None,
    cache_gb: float | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> AbstractContextManager[Path]:
    """Gives a path of this machine for a slide behind a URL, which stays until the block is left.

    Args:
        source: a URL that fsspec knows, for instance `s3://bucket/slide.svs`; a path is given back.
        cache: folder of the copies; None is the user's folder of caches.
        cache_gb: how many GB the copies may take; None is 50.
        progress: called with the bytes that are copied and all of them.

    Returns:
        A context manager that gives the path.

    Raises:
        WsisrError: what is wrong with which URL or option, and what to do.

    Example:
        >>> with wsisr.staged("s3://bucket/slide.svs") as path:
        ...     slide = wsisr.open_slide(path)
    """
    from wsisr.scaleout.remote import open_cache
    from wsisr.scaleout.remote import staged as stage

    return stage(source, open_cache(cache, cache_gb), progress)


def convert(
    source: str | Path,
    output: str | Path,
    *,
    cache: str | Path | None = None,
    cache_gb: float | None = None,
    **options: Unpack[ConvertOptions],
) -> ConvertResult:
    """Converts a slide to OME-TIFF or OME-Zarr without a model.

    An interrupted conversion goes on when it is called again.

    Args:
        source: any slide that wsisr reads, as a path or a URL.
        output: the file or folder to write; `.ome.tif`, `.ome.tiff` or `.ome.zarr` picks the
            format. An OME-Zarr may be a URL of object storage.
        cache: folder of the copies of remote slides; None is the user's folder of caches.
        cache_gb: how many GB the copies may take; None is 50.
        options: see `ConvertOptions`.

    Returns:
        What was written.

    Raises:
        WsisrError: what is wrong with which file or option, and what to do.
        TypeError: an option that does not exist.
    """
    _check_there(source)
    if not is_url(output):
        from wsisr.pyramid import check_output

        check_output(Path(output), overwrite=options.get("overwrite", False))
    from wsisr import transcode

    if not is_url(source) and not is_url(output):
        return transcode.convert(source, output, **options)
    from wsisr.scaleout.remote import find_destination, open_cache

    refuse_same_url(source, output)
    place = find_destination(output, open_cache(cache, cache_gb))
    with staged(source, cache=cache, cache_gb=cache_gb) as local:
        result = transcode.convert(local, place.path, destination=place.url, **options)
    return result if place.url is None else dataclasses.replace(result, output=shown(place.url))


def evaluate(
    sr: str | Path,
    hr: str | Path | None = None,
    lr: str | Path | None = None,
    *,
    also: Mapping[str, str | Path] | None = None,
    cache: str | Path | None = None,
    cache_gb: float | None = None,
    **options: Unpack[EvaluateOptions],
) -> Evaluation:
    """Judges a super-resolved image against a real scan of the same glass, or alone.

    Args:
        sr: the super-resolved slide as a path or a URL, or with `tiles` a folder of tiles.
        hr: the real scan, or the folder of real tiles of the same relative names.
        lr: the slide that was upscaled, or a folder of the tiles that were.
        also: {label: path or URL} of further results on SR's grid.
        cache: folder of the copies of remote slides; None is the user's folder of caches.
        cache_gb: how many GB the copies may take; None is 50.
        options: see `EvaluateOptions`.

    Returns:
        Means and intervals of every measure, what did not run and why, and the single tiles.

    Raises:
        WsisrError: what is wrong with which file or option, and what to do.
        TypeError: an option that does not exist.
    """
    for each in (sr, hr, lr, *(also or {}).values()):
        _check_there(each)
    from wsisr.evaluation import evaluate as judge

    with ExitStack() as stack:

        def local(source: str | Path) -> str | Path:
            if not is_url(source):
                return source
            return stack.enter_context(staged(source, cache=cache, cache_gb=cache_gb))

        return judge(
            local(sr),
            None if hr is None else local(hr),
            None if lr is None else local(lr),
            also={label: local(each) for label, each in (also or {}).items()},
            **options,
        )


def _check_there(source: str | Path | None) -> None:
    """Tells a missing file before anything is imported that would read it.

    Raises:
        SlideError: there is nothing at the path.
    """
    if source is not None and not is_url(source) and not Path(source).exists():
        raise SlideError(f"{source} does not exist; check the path")
