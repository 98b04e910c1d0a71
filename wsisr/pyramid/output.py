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

from wsisr.errors import ExistsError, OptionError, OutputError, UsageError
from wsisr.files import remove
from wsisr.pyramid.checks import check_place, output_kind
from wsisr.pyramid.encode import tiff_codec
from wsisr.pyramid.finished import FinishedWriter
from wsisr.pyramid.journal import Journal, NoJournal, lock_output
from wsisr.pyramid.ownership import check_names, is_journal, partial_path
from wsisr.pyramid.records import (
    JournalContent,
    check_match,
    describe_run,
    journal_path,
    pieces_path,
    read_journal,
    write_journal,
)
from wsisr.pyramid.resume import SoundTile, is_whole, restore, slot_bytes, sound_tiles
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
    fingerprint: str = ""
    blanks_damage: bool = False

    @property
    def header(self) -> dict[str, Any]:
        """Header of the journal."""
        return self._header(self.blanks_damage)

    def read(self) -> JournalContent | None:
        """Reads the journal of an interrupted run, whose header may be damaged.

        Raises:
            OutputError: it is damaged beyond repair.
        """
        likely = [self._header(blanks) for blanks in (False, True)]
        return read_journal(journal_path(self.out), likely)

    def _header(self, blanks: bool) -> dict[str, Any]:
        return describe_run(self.spec, self.kind, self.fingerprint, blanks_damage=blanks)

    @property
    def partial(self) -> Path:
        return partial_path(self.out)

    def new_sink(self) -> TileSink:
        try:
            return self.sink(resume=False)
        except BaseException:
            remove(self.partial)
            raise

    def sink(self, *, resume: bool, place: Path | None = None) -> TileSink:
        place = place or self.partial
        if self.kind == "tiff":
            return TiffSink(self.out, place, self.spec, resume=resume)
        store = FolderStore(self.out, place) if self.url is None else ObjectStore(self.url)
        return ZarrSink(self.out, store, self.spec, resume=resume)

    def is_begun(self) -> bool:
        """Tells whether there is what an interrupted run leaves."""
        files = (journal_path(self.out), pieces_path(self.out))
        there = all(file.is_file() for file in files)
        return there and (self.url is not None or self.partial.exists())

    def check_free(self, url: str, *, overwrite: bool) -> None:
        """Makes sure that nothing behind the URL would be lost.

        Raises:
            ExistsError: an output is there.
            UsageError: one is there that this machine has no journal of, or what wsisr did not
                make.
            OutputError: the server cannot be asked.
        """
        store = ObjectStore(url)
        if overwrite:
            if not store.is_own():
                raise UsageError(
                    f"{shown(url)} was not made by wsisr, and is not replaced; remove it, or "
                    "choose another name"
                )
            return
        if store.is_finished():
            raise ExistsError(f"{shown(url)} exists; give <overwrite> or another name")
        if not self.is_begun() and not store.is_empty():
            raise UsageError(
                f"{shown(url)}: an unfinished run of another machine, or of another <cache>, is "
                "there; go on there, or give <overwrite>"
            )

    def remove_unfinished(self) -> None:
        # the journal last: it is what the others are known by
        for left in (self.partial, pieces_path(self.out), journal_path(self.out)):
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
    blanks_damage: bool = False,
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
        blanks_damage: whether tiles may be blank because the input is damaged there; such a run is
            gone on from only by one that says so, too.

    Returns:
        The writer, to be used as a context manager.

    Raises:
        UsageError: the suffix is unknown, what is there was not made by wsisr, or an unfinished
            run does not match.
        ExistsError: the output exists.
        OutputError: the folder is missing or not writable, another run writes to the output, or
            its journal is damaged.
    """
    out = Path(path)
    target = _Target(out, spec, _format(out, spec), threads, url, fingerprint, blanks_damage)
    if threads < 1:
        raise OptionError("threads", threads, "give 1 or more")
    check_place(out)
    if os.path.lexists(out) and not overwrite and fingerprint and resume is not False:
        finished = _tidied(target)
        if finished is not None:
            return finished
    check_names(out, overwrite=overwrite, is_folder=target.kind != "tiff")
    if url is not None:
        target.check_free(url, overwrite=overwrite)
    anew = resume is False or (overwrite and not resume)
    if fingerprint:
        return _open_resumable(target, anew=anew)
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


def _open_resumable(target: _Target, *, anew: bool) -> PyramidWriter:
    """Opens a writer with a journal; it goes on from an unfinished run unless `anew`."""
    lock = ExitStack()
    lock.enter_context(lock_output(target.out))
    try:
        found = None if anew else _read_unfinished(target)
        if found is None:
            return _start(target, lock)
        return _go_on(target, lock, found)
    except BaseException:
        lock.close()
        raise


def _tidied(target: _Target) -> PyramidWriter | None:
    """Cleans up after this very run, where it was killed when its output had its name already.

    Returns:
        A writer that has nothing to do; None where the output is another one. That it is this one
        its bytes prove: the journal has a checksum of every tile.
    """
    out, spec = target.out, target.spec
    journal = journal_path(out)
    if target.url is not None or target.partial.exists() or not is_journal(journal):
        return None
    with lock_output(out):
        try:
            found = target.read()
        except OutputError:
            return None
        is_folder = target.kind != "tiff"
        if found is None or found.header != target.header or out.is_dir() != is_folder:
            return None
        sink = target.sink(resume=True, place=out)
        try:
            if not is_whole(spec, found.records, sink):
                return None
        finally:
            sink.close()
        target.remove_unfinished()
    return FinishedWriter(spec)


def _read_unfinished(target: _Target) -> JournalContent | None:
    return target.read() if target.is_begun() else None


def _start(target: _Target, lock: ExitStack) -> PyramidWriter:
    target.remove_unfinished()
    sink = target.new_sink()
    try:
        log = Journal(target.out, target.header, slot_bytes(target.spec), sink.sync, lock)
    except BaseException:
        sink.discard()
        target.remove_unfinished()
        raise
    return StreamWriter(target.spec, sink, log, threads=target.threads, keep=True)


def _go_on(target: _Target, lock: ExitStack, found: JournalContent) -> PyramidWriter:
    out, spec, kept = target.out, target.spec, found.length
    check_match(out, found.header, target.header)
    if found.is_repaired:
        _log.warning("%s: its beginning was damaged, and was repaired", journal_path(out))
    sink = target.sink(resume=True)
    try:
        restored = restore(out, spec, found.records, sink)
        if found.is_repaired or found.header != target.header:
            kept = write_journal(out, target.header, restored.records.values())
        log = Journal(
            out,
            target.header,
            slot_bytes(spec),
            sink.sync,
            lock,
            kept=kept,
            slots=restored.slots,
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


def part_tiles(
    part: Path, spec: PyramidSpec, fingerprint: str, *, blanks_damage: bool = False
) -> Generator[SoundTile]:
    """Walks over the sound tiles of a part, of which there are none where it is missing or torn.

    Args:
        part: the part's path.
        spec: the pyramid that it is a part of.
        fingerprint: that of the pyramid.
        blanks_damage: as in `open_writer`.

    Yields:
        The tiles from the top level down.

    Raises:
        UsageError: the part belongs to another run.
        OutputError: another run writes to the part, or it cannot be read.
    """
    if not part.parent.is_dir():
        return
    target = _Target(part, spec, _format(part, spec), 1, None, fingerprint, blanks_damage)
    with lock_output(part):
        try:
            found = _read_unfinished(target)
        except OutputError as error:
            _log.warning("%s: its tiles are computed again", error)
            return
        if found is None:
            return
        check_match(part, found.header, target.header)
        sink = target.sink(resume=True)
        try:
            yield from sound_tiles(part, spec, found.records, sink)
        finally:
            sink.close()


def _format(out: Path, spec: PyramidSpec) -> str:
    kind = output_kind(out)
    return f"zarr-{spec.zarr_version}" if kind == "zarr" else kind
