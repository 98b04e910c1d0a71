"""Opens an output: the format from its suffix, and what may be overwritten or resumed."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsisr.errors import OptionError, OutputError, UsageError
from wsisr.files import remove
from wsisr.pyramid.checks import check_output, output_kind
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
from wsisr.pyramid.resume import SoundTile, restore, slot_bytes, sound_tiles
from wsisr.pyramid.sink import TileSink
from wsisr.pyramid.spec import PyramidSpec
from wsisr.pyramid.stores import FolderStore, ObjectStore
from wsisr.pyramid.tiff import TiffSink
from wsisr.pyramid.writer import PyramidWriter, StreamWriter
from wsisr.pyramid.zarr import ZarrSink, encode_chunk
from wsisr.urls import shown

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Target:
    """What is written where, and by how many threads; with a URL, the journal alone is at `out`."""

    out: Path
    spec: PyramidSpec
    kind: str
    threads: int
    url: str | None

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
        if self.kind == "tiff":
            return TiffSink(self.out, self.partial, self.spec, resume=resume)
        store = FolderStore(self.out, self.partial) if self.url is None else ObjectStore(self.url)
        return ZarrSink(self.out, store, self.spec, resume=resume)

    def is_begun(self) -> bool:
        """Tells whether there is what an interrupted run leaves."""
        files = (journal_path(self.out), pieces_path(self.out))
        there = all(file.is_file() for file in files)
        return there and (self.url is not None or self.partial.exists())

    def check_free(self, url: str) -> None:
        """Makes sure that nothing behind the URL would be lost.

        Raises:
            UsageError: an output is there, or one that this machine has no journal of.
            OutputError: the server cannot be asked.
        """
        store = ObjectStore(url)
        if store.is_finished():
            raise UsageError(f"{shown(url)} exists; give <overwrite> or another name")
        if not self.is_begun() and not store.is_empty():
            raise UsageError(
                f"{shown(url)}: an unfinished run of another machine, or of another <cache>, is "
                "there; go on there, or give <overwrite>"
            )

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
    url: str | None = None,
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
        url: object storage that takes an OME-Zarr in place of `path`, beside which only the
            journal is then kept; an existing output is removed at the start, not at the end.

    Returns:
        The writer, to be used as a context manager.

    Raises:
        UsageError: the suffix is unknown, the output exists, or an unfinished run does not match.
        OutputError: the folder is missing or not writable, another run writes to the output, or
            its journal is damaged.
    """
    out = Path(path)
    target = _Target(out, spec, _format(out, spec), threads, url)
    if threads < 1:
        raise OptionError("threads", threads, "give 1 or more")
    check_output(out, overwrite=overwrite)
    if url is not None and not overwrite:
        target.check_free(url)
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
    return read_journal(journal_path(target.out)) if target.is_begun() else None


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


def part_tiles(part: Path, spec: PyramidSpec, out: Path, fingerprint: str) -> Generator[SoundTile]:
    """Walks over the sound tiles of a part, of which there are none where it is missing or torn.

    Args:
        part: the part's path.
        spec: the pyramid that it is a part of.
        out: the pyramid's path, for its format.
        fingerprint: that of the pyramid.

    Yields:
        The tiles from the top level down.

    Raises:
        UsageError: the part belongs to another run.
        OutputError: another run writes to the part, or it cannot be read.
    """
    if not part.parent.is_dir():
        return
    target = _Target(part, spec, _format(part, spec), threads=1, url=None)
    with lock_output(part):
        try:
            found = _read_unfinished(target)
        except OutputError as error:
            _log.warning("%s: its tiles are computed again", error)
            return
        if found is None:
            return
        header, records, _ = found
        check_match(part, header, describe_run(spec, _format(out, spec), fingerprint))
        sink = target.sink(resume=True)
        try:
            yield from sound_tiles(part, spec, records, sink)
        finally:
            sink.close()


def _format(out: Path, spec: PyramidSpec) -> str:
    kind = output_kind(out)
    return f"zarr-{spec.zarr_version}" if kind == "zarr" else kind
