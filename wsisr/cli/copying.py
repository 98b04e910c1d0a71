"""The slide that a command is given: copied here first, with a bar, where it is a URL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wsisr.urls import is_url


@contextmanager
def local_copy(
    source: str | Path, cache: str | Path | None, cache_gb: float | None
) -> Iterator[str | Path]:
    """Gives the path of a slide on this machine; a bar on a terminal shows the copying.

    Args:
        source: a path or a URL.
        cache: folder of the copies; None is the user's folder of caches.
        cache_gb: how many GB they may take.

    Yields:
        The path, which stays until the block is left.
    """
    if not is_url(source):
        yield source
        return
    from tqdm import tqdm

    import wsisr

    with tqdm(unit="B", unit_scale=True, desc="copying", disable=None, leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        with wsisr.staged(source, cache=cache, cache_gb=cache_gb, progress=show) as local:
            bar.close()
            yield local
