"""Stages slides: a URL in, a path of this machine out, copied only where it is not there yet."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event
from urllib.parse import urlsplit
from urllib.request import url2pathname

from wsisr.closing import Closing
from wsisr.errors import SlideError, WsisrError
from wsisr.files import remove, sync_folder
from wsisr.scaleout.remote.cache import Cache, Entry, waiting_lock
from wsisr.scaleout.remote.download import Report, download
from wsisr.scaleout.remote.listing import RemoteSlide, find_slide
from wsisr.urls import is_url, scheme_of, shown

CHANGES = 3
"""A slide that changes so often while it is copied is given up."""


class StoppedError(Exception):
    """A copy that was started ahead is wanted no longer."""


def unheard(done: int, total: int) -> None:
    """Reports the progress of a copy to nobody."""


@contextmanager
def staged(source: str | Path, cache: Cache, report: Report = unheard) -> Iterator[Path]:
    """Gives a path of this machine for a slide, which stays there until the block is left.

    Paths and `file://` are given as they are. What other URLs lead to is copied into the cache,
    unless this version of it is there. A copy that was interrupted goes on; a second process that
    wants the same slide waits for the first one's copy.

    Args:
        source: a path or a URL.
        cache: where copies are kept.
        report: called with the bytes copied and all of them, while copying.

    Yields:
        The path.

    Raises:
        SlideError: the slide does not exist or cannot be read.
        UsageError: the URL cannot be used, or the cache is too small.
        OutputError: the cache cannot be written.
    """
    local = local_path(source)
    if local is not None:
        yield local
        return
    with ExitStack() as stack:
        yield _stage(str(source), cache, report, stack)


def local_path(source: str | Path) -> Path | None:
    """Gives the path that a source names, None for a URL to be copied."""
    if not is_url(source):
        return Path(source)
    if scheme_of(str(source)) == "file":
        return Path(url2pathname(urlsplit(str(source)).path))
    return None


def _stage(url: str, cache: Cache, report: Report, stack: ExitStack) -> Path:
    """Copies a slide as it is now; once more where it has changed in the meantime."""
    for _ in range(CHANGES):
        slide = find_slide(url)
        entry = cache.entry(slide.key)
        with ExitStack() as using:
            using.enter_context(entry.in_use(slide.size))
            if _copy(slide, entry, report):
                stack.push(using.pop_all())
                return entry.folder / slide.name
    raise SlideError(f"{shown(url)}: changes while it is copied; run again when it is complete")


def _copy(slide: RemoteSlide, entry: Entry, report: Report) -> bool:
    """Makes sure that the copy is complete; tells whether it is of one version."""
    with waiting_lock(entry.turn):
        if entry.folder.is_dir():
            return True
        download(slide, entry.partial, report)
        if find_slide(slide.url).key != slide.key:
            remove(entry.partial)
            return False
        entry.partial.replace(entry.folder)
        sync_folder(entry.folder.parent)
        return True


class Stager(Closing):
    """Stages slides one after the other, and copies the next ones while one is worked on.

    Args:
        cache: where copies are kept.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._stopped = Event()
        self._copier = ThreadPoolExecutor(1, thread_name_prefix="wsisr-stage")
        self._ahead: dict[str, Future[ExitStack]] = {}

    def prefetch(self, source: str | Path) -> None:
        """Starts to copy a slide in the background; it stays until `staged` took it, or the end.

        What fails here is told by `staged`, which then tries again. Paths need no copy.
        """
        if local_path(source) is None and str(source) not in self._ahead:
            self._ahead[str(source)] = self._copier.submit(self._hold, str(source))

    def _go_on(self, done: int, total: int) -> None:
        if self._stopped.is_set():
            raise StoppedError

    def _hold(self, url: str) -> ExitStack:
        with ExitStack() as stack:
            stack.enter_context(staged(url, self._cache, self._go_on))
            return stack.pop_all()

    @contextmanager
    def staged(self, source: str | Path) -> Iterator[Path]:
        """Gives a path of this machine for a slide, see `staged`."""
        ahead = self._ahead.pop(str(source), None)
        with ExitStack() as stack:
            if ahead is not None:
                with suppress(WsisrError):
                    stack.enter_context(ahead.result())
            yield stack.enter_context(staged(source, self._cache))

    def close(self) -> None:
        """Stops copying, and lets go of what was copied ahead."""
        self._stopped.set()
        self._copier.shutdown(wait=True, cancel_futures=True)
        for ahead in self._ahead.values():
            if not ahead.cancelled():
                with suppress(WsisrError, StoppedError):
                    ahead.result().close()
        self._ahead.clear()
