"""Opens an output: the format from its suffix, and what may be overwritten or resumed."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsisr.errors import OptionError, OutputError, UsageError
from wsisr.files import remove
from wsisr.pyramid.encode import tiff_codec
from wsisr.pyramid.journal import Journal, NoJournal, lock_output
from wsisr.pyramid.records import (
    Record,
    check_match,
    describe_run,
    journal_path,
    pieces_path,
    read_journal,
)
from wsisr.pyramid.resume import restore, slot_bytes
from wsisr.pyramid.sink import TileSink
from wsisr.pyramid.spec import PyramidSpec
from wsisr.pyramid.tiff import TiffSink
from wsisr.pyramid.writer import PyramidWriter, StreamWriter
from wsisr.pyramid.zarr import ZarrSink, encode_chunk

TIFF_SUFFIXES = (".ome.tif", ".ome.tiff")
ZARR_SUFFIXES = (".ome.zarr",)

_SINKS: dict[str, Callable[..., TileSink]] = {
    "tiff": TiffSink,
    "zarr-0.4": ZarrSink,
    "zarr-0.5": ZarrSink,
}


@dataclass(frozen=True)
class _Target:
    """What is written where, and by how many threads."""

    out: Path
    spec: PyramidSpec
    kind: str
    threads: int

    @property
    def partial(self) -> Path:
        return self.out.with_name(self.out.name + ".partial")

    def new_sink(self) -> TileSink:
        try:
            return self.sink(resume=False)
        except BaseException:
            remove(self.partial)
            raise

    def sink(self, *, resume: bool) -> TileSink:
        return _SINKS[self.kind](self.out, self.partial, self.spec, resume=resume)

    def remove_unfinished(self) -> None:
        for left in (self.partial, journal_path(self.out), pieces_path(self.out)):
            remove(left)


def open_writer(
    path: str | os.PathLike[str],
    spec: PyramidSpec,
    *,
    threads: int = 1,
    overwrite: bool = False,
    resume: bool | None = None,
    fingerprint: str = "",
) -> PyramidWriter:
    """Starts, or goes on with, writing a pyramid.

    Everything goes to `<path>.partial` until `finish()`. With a fingerprint a journal is kept: an
    error or `kill -9` leaves the partial output in place, and the next call with the same spec and
    fingerprint goes on from it. Without one an error leaves nothing.

    Args:
        path: the output; its suffix picks the format: `.ome.tif`, `.ome.tiff` or `.ome.zarr`.
        spec: the pyramid.
        threads: how many workers encode tiles.
        overwrite: replace an existing output, and discard an unfinished run unless `resume` is
            True.
        resume: None and True go on from an unfinished run if there is one; False discards it.
        fingerprint: what makes the pixels (input, model, settings, seed), as a short text.

    Returns:
        The writer, to be used as a context manager.

    Raises:
        UsageError: the suffix is unknown, the output exists, or an unfinished run does not match.
        OutputError: the folder is missing or not writable, another run writes to the output, or
            its journal is damaged.
    """
    out = Path(path)
    target = _Target(out, spec, _format(out, spec), threads)
    if threads < 1:
        raise OptionError("threads", threads, "give 1 or more")
    if not out.parent.is_dir():
        raise OutputError(f"{out}: the folder {out.parent} does not exist; create it first")
    if (out.exists() or out.is_symlink()) and not overwrite:
        raise UsageError(f"{out} exists; give <overwrite> or another name")
    anew = resume is False or (overwrite and not resume)
    if fingerprint:
        return _open_resumable(target, fingerprint, anew=anew)
    unfinished = journal_path(out).is_file()
    with lock_output(out) if unfinished else nullcontext():
        if unfinished and not anew:
            raise UsageError(f"{out}: an unfinished run is there; resume it, or give <overwrite>")
        target.remove_unfinished()
    return StreamWriter(spec, target.new_sink(), NoJournal(), threads=threads, keep=False)


def tile_encoder(path: Path, spec: PyramidSpec) -> Callable[[NDArray[np.uint8]], bytes]:
    """Gives what encodes the tiles of an output: uint8 (rows, columns, samples) to bytes.

    Raises:
        UsageError: the suffix is unknown.
    """
    return tiff_codec(spec).encode if _format(path, spec) == "tiff" else encode_chunk


def _open_resumable(target: _Target, fingerprint: str, *, anew: bool) -> PyramidWriter:
    """Opens a writer with a journal; it goes on from an unfinished run unless `anew`."""
    header = describe_run(target.spec, target.kind, fingerprint)
    lock = ExitStack()
    lock.enter_context(lock_output(target.out))
    try:
        found = None if anew else _read_unfinished(target)
        if found is None:
            return _start(target, header, lock)
        return _go_on(target, header, lock, found)
    except BaseException:
        lock.close()
        raise


def _read_unfinished(target: _Target) -> tuple[dict[str, Any], list[Record], int] | None:
    journal = journal_path(target.out)
    if not (target.partial.exists() and pieces_path(target.out).is_file() and journal.is_file()):
        return None
    return read_journal(journal)


def _start(target: _Target, header: dict[str, Any], lock: ExitStack) -> PyramidWriter:
    target.remove_unfinished()
    sink = target.new_sink()
    try:
        log = Journal(target.out, header, slot_bytes(target.spec), sink.sync, lock)
    except BaseException:
        sink.discard()
        target.remove_unfinished()
        raise
    return StreamWriter(target.spec, sink, log, threads=target.threads, keep=True)


def _go_on(
    target: _Target,
    header: dict[str, Any],
    lock: ExitStack,
    found: tuple[dict[str, Any], list[Record], int],
) -> PyramidWriter:
    out, spec = target.out, target.spec
    old_header, records, kept = found
    check_match(out, old_header, header)
    sink = target.sink(resume=True)
    try:
        restored = restore(out, spec, records, sink)
        log = Journal(
            out, header, slot_bytes(spec), sink.sync, lock, kept=kept, slots=restored.slots
        )
    except BaseException:
        sink.close()
        raise
    writer = StreamWriter(spec, sink, log, threads=target.threads, keep=True)
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
