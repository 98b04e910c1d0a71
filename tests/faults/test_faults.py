"""Whatever call of the file system fails, and wherever a run is killed, the output is right.

The property: the output is absent (or still the older one) or complete and right, nobody sees a
traceback, and the same command then ends in the same pixels and leaves nothing else behind.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.faults.commands import (
    COMMANDS,
    FORMATS,
    Case,
    are_same,
    make_slide,
    pixels_of,
    run,
)
from tests.faults.injection import KINDS, WRITES, Fault

CASES = [
    Case(command, kind, overwrite)
    for overwrite in (False, True)
    for command in COMMANDS
    for kind in FORMATS
]


@dataclass(frozen=True)
class Prepared:
    """A folder to run in, and what should come out.

    Attributes:
        before: the folder before the run.
        calls: names of the calls of a run that nothing happens to.
        older: levels of the output that is replaced; none where there is none.
        wanted: levels of the new output.
    """

    before: Path
    calls: list[str]
    older: list[np.ndarray] | None
    wanted: list[np.ndarray]


def prepare(case: Case, scratch: Path) -> Prepared:
    before, after, log = scratch / "before", scratch / "after", scratch / "calls"
    before.mkdir()
    older = None
    if case.overwrite:
        make_slide(before, seed=1)
        assert run(case.arguments(before), before, scratch / "older").returncode == 0
        older = pixels_of(case.out(before))
    make_slide(before, seed=0)
    shutil.copytree(before, after)
    done = run(case.arguments(after), after, log)
    assert done.returncode == 0, done.stderr
    wanted = pixels_of(case.out(after))
    assert wanted is not None
    return Prepared(before, log.read_text().split("\n")[:-1], older, wanted)


def check(case: Case, prepared: Prepared, scratch: Path, fault: Fault) -> None:
    folder = scratch / "now"
    shutil.copytree(prepared.before, folder)
    try:
        _check(case, prepared, folder, scratch, fault)
    finally:
        shutil.rmtree(folder)


def _check(case: Case, prepared: Prepared, folder: Path, scratch: Path, fault: Fault) -> None:
    out, arguments = case.out(folder), case.arguments(folder)
    done = run(arguments, folder, scratch / "calls of now", fault)
    place = f"{fault} ({prepared.calls[fault.number]}) of {case}: {done}"
    assert "Traceback" not in done.stderr, place
    assert done.returncode in (0, 1, 130, -9), place
    assert sum(map(bool, done.stderr.splitlines())) <= 2, place
    found = pixels_of(out)
    is_new = are_same(found, prepared.wanted)
    is_older = prepared.older is not None and are_same(found, prepared.older)
    assert found is None or is_new or is_older, place
    if done.returncode == 0:
        assert is_new, place
    names = {path.name for path in folder.iterdir()}
    # that an empty lock file stays where it cannot be removed harms nobody
    if is_new and names <= {"in.tif", out.name, f"{out.name}.lock"}:
        return
    again = run(arguments, folder, scratch / "calls of the next")
    assert again.returncode == 0, f"{place} then {again}"
    assert are_same(pixels_of(out), prepared.wanted), place
    left = {path.name for path in folder.iterdir()} - {"in.tif", out.name}
    assert not left, f"{place} leaves {left}"


def faults_of(calls: list[str]) -> Iterator[Fault]:
    for number, name in enumerate(calls):
        for kind in KINDS:
            if kind != "short" or name in WRITES:
                yield Fault(kind, number)


@pytest.mark.parametrize(
    "case", [case for case in CASES if not case.overwrite][::2], ids=lambda case: str(case)
)
def test_a_few_faults(case: Case, tmp_path: Path) -> None:
    """A sample of those below, most of it from the last moments of a run."""
    prepared = prepare(case, tmp_path)
    last = len(prepared.calls)
    for fault in (
        Fault("full", last // 2),
        Fault("kill after", last // 2),
        Fault("error", last - 6),
        Fault("kill after", last - 5),
    ):
        check(case, prepared, tmp_path, fault)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case))
def test_every_fault_at_every_call(case: Case, tmp_path: Path) -> None:
    prepared = prepare(case, tmp_path)
    failures = []
    for fault in faults_of(prepared.calls):
        try:
            check(case, prepared, tmp_path, fault)
        except AssertionError as error:
            failures.append(str(error).splitlines()[0])
    assert not failures, f"{len(failures)} of {len(prepared.calls)} calls:\n" + "\n".join(failures)
