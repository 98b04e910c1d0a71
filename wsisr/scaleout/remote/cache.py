"""A folder of this machine that holds copies of remote slides, up to a bound.

`slides/KEY/` holds the files of one version of a slide, `slides/KEY.partial/` those of one that is
under way. `state/KEY.json` says how many bytes it takes; its time is that of the last use. Whoever
uses a slide holds a lock of its own in `state/KEY.users/`; the locks are the operating system's and
end with their process. All that is decided is decided under `state/lock`, held for moments.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from wsisr.caches import cache_folder
from wsisr.errors import OptionError, OutputError
from wsisr.files import os_errors, remove, write_atomic
from wsisr.locks import take_lock
from wsisr.parsing import read_json_object

DEFAULT_GB = 50.0


@dataclass(frozen=True)
class Cache:
    """Where copies of remote slides are kept.

    Attributes:
        folder: the folder, on a disk of this machine.
        limit: how many bytes the copies may take.
    """

    folder: Path
    limit: int

    def entry(self, key: str) -> Entry:
        """Gives the place of a slide."""
        return Entry(self, key)

    @property
    def slides(self) -> Path:
        """The folder of the copies."""
        return self.folder / "slides"

    @property
    def state(self) -> Path:
        """The folder of what is known of the copies."""
        return self.folder / "state"

    @contextmanager
    def deciding(self) -> Iterator[None]:
        """Holds the lock of the whole cache, waiting for it."""
        with waiting_lock(self.state / "lock"):
            yield


@dataclass(frozen=True)
class Entry:
    """One version of a slide in the cache.

    Attributes:
        cache: the cache.
        key: its name there.
    """

    cache: Cache
    key: str

    @property
    def folder(self) -> Path:
        """The complete copy."""
        return self.cache.slides / self.key

    @property
    def partial(self) -> Path:
        """The copy that is under way."""
        return self.cache.slides / f"{self.key}.partial"

    @property
    def facts(self) -> Path:
        """The file that says how many bytes it takes; its time is that of the last use."""
        return self.cache.state / f"{self.key}.json"

    @property
    def users(self) -> Path:
        """The folder of the locks of those who use it."""
        return self.cache.state / f"{self.key}.users"

    @property
    def turn(self) -> Path:
        """The lock of the one who copies."""
        return self.cache.state / f"{self.key}.lock"

    @contextmanager
    def in_use(self, size: int) -> Iterator[None]:
        """Keeps the slide from being removed, and makes room for it.

        Args:
            size: bytes of the slide.

        Raises:
            OptionError: the cache is too small for it, alone or beside what is in use.
            OutputError: the folder cannot be written.
        """
        with ExitStack() as stack:
            with os_errors(self.cache.folder), self.cache.deciding():
                make_room(self, size)
                self.users.mkdir(exist_ok=True)
                write_atomic(self.facts, json.dumps({"bytes": size}))
                mine = self.users / f"{os.getpid()}-{uuid.uuid4().hex}"
                stack.callback(mine.unlink, missing_ok=True)
                stack.enter_context(waiting_lock(mine))
            try:
                yield
            finally:
                # a folder that someone removed in the meantime is no reason to fail at the end
                with suppress(OSError):
                    os.utime(self.facts)

    def is_used(self) -> bool:
        """Tells whether a living process uses it; asked under the lock of the cache."""
        import filelock

        for each in list(self.users.glob("*")):
            try:
                lock = take_lock(each)
            except filelock.Timeout:
                return True
            lock.release()
            each.unlink(missing_ok=True)
        return False

    def discard(self) -> None:
        """Removes it."""
        for left in (self.folder, self.partial, self.users, self.turn, self.facts):
            remove(left)


def make_room(wanted: Entry, size: int) -> None:
    """Removes slides, the longest unused first, until one fits; asked under the cache's lock.

    Args:
        wanted: what is to fit, which may be there already.
        size: its bytes.

    Raises:
        OptionError: it does not fit.
    """
    cache = wanted.cache
    gb = cache.limit / 1e9
    if size > cache.limit:
        rule = f"the slide has {size / 1e9:.3g} GB; give a larger number, or copy it by other means"
        raise OptionError("cache_gb", gb, rule)
    used: dict[Path, tuple[float, int]] = {}
    for facts in cache.state.glob("*.json"):
        if facts != wanted.facts:
            # another process may be writing or removing it
            with suppress(OSError, ValueError, KeyError, TypeError):
                used[facts] = facts.stat().st_mtime, int(read_json_object(facts)["bytes"])
    room = cache.limit - size - sum(bytes_ for _, bytes_ in used.values())
    for facts, (_, bytes_) in sorted(used.items(), key=lambda item: item[1]):
        if room >= 0:
            return
        entry = cache.entry(facts.stem)
        if not entry.is_used():
            entry.discard()
            room += bytes_
    if room < 0:
        rule = (
            f"{-room / 1e9:.3g} GB more are needed beside the slides in use; give a larger number"
        )
        raise OptionError("cache_gb", gb, rule)


@contextmanager
def waiting_lock(path: Path) -> Iterator[None]:
    """Holds a lock against all other processes and threads; waits until it is free."""
    lock = take_lock(path, timeout_s=-1)
    try:
        yield
    finally:
        lock.release()


def open_cache(folder: str | Path | None = None, gb: float | None = None) -> Cache:
    """Opens the cache, made if it is missing.

    Args:
        folder: the folder; None is the user's folder of caches.
        gb: its bound in GB (10^9 bytes); None is `DEFAULT_GB`.

    Raises:
        OptionError: the bound is no number above 0.
        OutputError: the folder cannot be made.
    """
    gb = DEFAULT_GB if gb is None else gb
    if not 0 < gb < 1e9:
        raise OptionError("cache_gb", gb, "give a number above 0")
    root = Path(folder) if folder is not None else cache_folder()
    cache = Cache(root, int(gb * 1e9))
    try:
        for each in (cache.slides, cache.state):
            each.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{root}: cannot be written ({error.strerror}); give another folder by <cache>"
        ) from error
    return cache
