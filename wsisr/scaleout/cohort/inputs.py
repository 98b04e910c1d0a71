"""The slides that the inputs of a command line stand for."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from wsisr.errors import SlideError, UsageError
from wsisr.slides import find_slides, slides_among
from wsisr.urls import is_url

_MAGIC = re.compile(r"[*?[]")


def expand(inputs: Sequence[str | Path], out: Path) -> list[str]:
    """Lists the slides that files, patterns, folders and URLs stand for.

    Args:
        inputs: paths, which are taken as they are where they exist; patterns of `glob`, with `**`
            for any folders; URLs, which are kept as text.
        out: folder of the results, which is not searched for inputs.

    Returns:
        Paths and URLs in the order given, each once.

    Raises:
        UsageError: files are missing, a folder or pattern leads to no slide, or results would lie
            among the slides of a folder.
        SlideError: a folder cannot be read.
    """
    found: dict[str, str] = {}
    problems: list[str] = []
    for place in map(str, inputs):
        try:
            for slide in _slides_of(place, out):
                found.setdefault(slide if is_url(slide) else os.path.realpath(slide), slide)
        except UsageError as problem:
            problems.append(str(problem))
        except OSError as error:
            where, why = error.filename or place, error.strerror
            raise SlideError(f"{where} cannot be read ({why}); check its permissions") from error
    refuse(problems)
    return list(found.values())


def refuse(problems: Sequence[str], source: str = "") -> None:
    """Ends the command where there are problems, of which the first three are told.

    Args:
        problems: what is wrong, and what to do.
        source: the file that they were found in.

    Raises:
        UsageError: there are some.
    """
    if not problems:
        return
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    count = f"{len(problems)} problems: " if len(problems) > 1 else ""
    begin = f"{source}: " if source else ""
    raise UsageError(begin + count + "; ".join(problems[:3]) + more)


def _slides_of(place: str, out: Path) -> Iterator[str]:
    if is_url(place):
        yield place
        return
    path = Path(place)
    if path.is_dir():
        yield from _in_folder(path, out)
    elif path.exists():
        yield place
    elif _MAGIC.search(place):
        yield from _matching(place, out)
    else:
        raise UsageError(f"{place} does not exist; check the path")


def _in_folder(folder: Path, out: Path) -> list[str]:
    slides = [
        str(path) for path in find_slides(folder, without=() if _same(folder, out) else (out,))
    ]
    if not slides:
        raise UsageError(f"{folder} holds no slides; check the path, or name the files themselves")
    if _same(folder, out) and slides != [str(folder)]:
        raise UsageError(
            f"{folder} is also the folder of the results, which a next run would take for slides; "
            "choose another <out>"
        )
    return slides


def _same(folder: Path, other: Path) -> bool:
    return folder.resolve() == other.resolve()


def _matching(pattern: str, out: Path) -> list[str]:
    beside = cache(lambda folder: frozenset(slides_among(_entries(folder))))
    fixed = _fixed_folder(pattern)
    # results in a folder below are no inputs; the folder that the pattern names itself may be both
    without = out.resolve() if fixed in out.resolve().parents else None
    found: dict[Path, None] = {}
    for match in map(Path, sorted(glob.glob(pattern, recursive=True))):  # noqa: PTH207
        if without is not None and without in (match.resolve(), *match.resolve().parents):
            continue
        if match in beside(match.parent):
            found[match] = None
        elif match.parent in beside(match.parent) and match.suffix.lower() == ".dcm":
            found[match.parent] = None
        elif match.is_dir() and slides_among(_entries(match)) == [match]:
            found[match] = None
    if not found:
        raise UsageError(f"{pattern} matches no slides; check the pattern")
    return list(map(str, found))


def _fixed_folder(pattern: str) -> Path:
    """Gives the folder that a pattern names before the first sign that stands for several."""
    found = _MAGIC.search(pattern)
    # one more character, so that `slides/*` names slides
    return Path(pattern[: found.start()] + "x" if found else pattern).parent.resolve()


def _entries(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]
