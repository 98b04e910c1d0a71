"""Opening an output: the format from its suffix, and what may be overwritten or resumed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from wsisr.errors import OutputError, UsageError
from wsisr.files import remove
from wsisr.pyramid.journal import (
    Journal,
    NoJournal,
    check_match,
    describe,
    journal_path,
    lock,
    pieces_path,
    read,
)
from wsisr.pyramid.resume import restore, slot_bytes
from wsisr.pyramid.sink import TileSink
from wsisr.pyramid.spec import PyramidSpec
from wsisr.pyramid.tiff import TiffSink
from wsisr.pyramid.writer import PyramidWriter, StreamWriter
from wsisr.pyramid.zarr import ZarrSink

TIFF_SUFFIXES = (".ome.tif", ".ome.tiff")
ZARR_SUFFIXES = (".ome.zarr",)

_SINKS: dict[str, Callable[..., TileSink]] = {
    "tiff": TiffSink,
    "zarr-0.4": ZarrSink,
    "zarr-0.5": ZarrSink,
}


def open_writer(
    path: str | os.PathLike[str],
    spec: PyramidSpec,
    *,
    threads: int = 1,
    overwrite: bool = False,
    resume: bool | None = None,
    fingerprint: str = "",
) -> PyramidWriter:
    """Start or go on writing the pyramid `spec` to `path`.

    The suffix picks the format: `.ome.tif`, `.ome.tiff` or `.ome.zarr`. Everything goes to
    `<path>.partial` until `finish()`. threads: workers that encode.

    fingerprint: what makes the pixels (input, model, settings, seed), as a short text. With one,
    a journal is kept, an error or `kill -9` leaves the partial output in place, and the next call
    with the same spec and fingerprint goes on from it; without, an error leaves nothing.
    resume: None and True go on from an unfinished run if there is one; False discards it.
    overwrite: replace an existing output, and discard an unfinished run unless resume is True.

    Raises UsageError (unknown suffix, output exists, an unfinished run that does not match) and
    OutputError (folder missing or not writable, a journal in use or damaged).
    """
    out = Path(path)
    kind = _format(out, spec)
    if threads < 1:
        raise UsageError(f"threads {threads}: give 1 or more")
    if not out.parent.is_dir():
        raise OutputError(f"{out}: the folder {out.parent} does not exist; create it first")
    if (out.exists() or out.is_symlink()) and not overwrite:
        raise UsageError(f"{out} exists; give --overwrite or another name")
    partial = out.with_name(out.name + ".partial")
    anew = resume is False or (overwrite and not resume)
    if fingerprint:
        return _resumable(out, partial, spec, kind, threads, fingerprint, anew=anew)
    if journal_path(out).is_file():
        os.close(lock(journal_path(out), out))
        if not anew:
            raise UsageError(f"{out}: an unfinished run is there; resume it, or give --overwrite")
    for left in (partial, journal_path(out), pieces_path(out)):
        remove(left)
    sink = _new_sink(out, partial, spec, kind)
    return StreamWriter(spec, sink, NoJournal(), threads=threads, keep=False)


def _new_sink(out: Path, partial: Path, spec: PyramidSpec, kind: str) -> TileSink:
    try:
        return _SINKS[kind](out, partial, spec, resume=False)
    except BaseException:
        remove(partial)
        raise


def _resumable(
    out: Path,
    partial: Path,
    spec: PyramidSpec,
    kind: str,
    threads: int,
    fingerprint: str,
    *,
    anew: bool,
) -> PyramidWriter:
    """A writer with a journal, going on from the unfinished run that is there unless `anew`."""
    header = describe(spec, kind, fingerprint)
    lock_fd = lock(journal_path(out), out)
    try:
        there = partial.exists() and pieces_path(out).is_file() and not anew
        found = read(journal_path(out)) if there else None
        if found is None:
            remove(partial)
            os.truncate(journal_path(out), 0)
            sink = _new_sink(out, partial, spec, kind)
            try:
                log = Journal(out, header, slot_bytes(spec), sink.sync, lock_fd)
            except BaseException:
                sink.discard()
                remove(pieces_path(out))
                os.truncate(journal_path(out), 0)
                raise
            return StreamWriter(spec, sink, log, threads=threads, keep=True)
        old_header, records, kept = found
        check_match(out, old_header, header)
        sink = _SINKS[kind](out, partial, spec, resume=True)
        restored = restore(out, spec, records, sink)
        log = Journal(
            out, header, slot_bytes(spec), sink.sync, lock_fd, kept=kept, slots=restored.slots
        )
    except BaseException:
        if os.fstat(lock_fd).st_size == 0:
            remove(journal_path(out))
        os.close(lock_fd)
        raise
    writer = StreamWriter(spec, sink, log, threads=threads, keep=True)
    try:
        writer.restore(restored)
    except BaseException:
        writer.abort(keep=True)
        raise
    return writer


def _format(out: Path, spec: PyramidSpec) -> str:
    name = out.name.lower()
    for kind, suffixes in (("tiff", TIFF_SUFFIXES), ("zarr", ZARR_SUFFIXES)):
        if any(name.endswith(suffix) and len(name) > len(suffix) for suffix in suffixes):
            return f"zarr-{spec.zarr_version}" if kind == "zarr" else kind
    known = ", ".join(TIFF_SUFFIXES + ZARR_SUFFIXES)
    raise UsageError(f"{out}: the name must end in one of {known}")
