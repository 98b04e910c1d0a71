from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsisr.errors import OptionError, UsageError
from wsisr.scaleout.cohort import (
    Shard,
    choose_shard,
    parse_shard,
    shard_from_environment,
    take_shard,
)

SLURM = "SLURM_ARRAY_TASK_"


def slurm(**values: int) -> dict[str, str]:
    return {f"{SLURM}{name}": str(value) for name, value in values.items()}


def test_a_share_is_read() -> None:
    assert parse_shard("1/8") == Shard(1, 8)
    assert parse_shard(" 8 / 8 ") == Shard(8, 8)
    assert str(Shard(2, 5)) == "2/5"


@pytest.mark.parametrize("text", ["", "0/8", "9/8", "1", "1/0", "-1/8", "1.5/8", "1/8/2", "a/b"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match=r"1/8"):
        parse_shard(text)


@given(
    costs=st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=60),
    count=st.integers(1, 12),
    known=st.booleans(),
)
def test_shares_are_disjoint_and_complete(costs: list[float], count: int, known: bool) -> None:
    rows = list(range(len(costs)))
    shares = [
        take_shard(rows, costs if known else None, Shard(index, count))
        for index in range(1, count + 1)
    ]
    assert sorted(row for share in shares for row in share) == rows
    assert all(share == sorted(share) for share in shares)
    # slides of no known cost are dealt out as well
    if known and not any(cost > 0 for cost in costs):
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(costs=st.lists(st.floats(0.1, 1e6), min_size=1, max_size=80), count=st.integers(1, 10))
def test_shares_take_as_long_as_one_another(costs: list[float], count: int) -> None:
    rows = list(range(len(costs)))
    loads = [
        sum(costs[row] for row in take_shard(rows, costs, Shard(index, count)))
        for index in range(1, count + 1)
    ]
    # Graham's bound: no share is ahead of the least by more than one slide
    assert max(loads) - min(loads) <= max(costs) * (1 + 1e-9)


@given(number=st.integers(0, 50), count=st.integers(1, 8), index=st.integers(1, 8))
def test_without_costs_an_appended_row_moves_no_other(number: int, count: int, index: int) -> None:
    shard = Shard(min(index, count), count)
    before = take_shard(range(number), None, shard)
    after = take_shard(range(number + 1), None, shard)
    assert after[: len(before)] == before


def test_no_share_is_the_whole() -> None:
    assert take_shard("abc", [1, 2, 3], None) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="2 costs for 3 rows"):
        take_shard("abc", [1, 2], Shard(1, 2))


@pytest.mark.parametrize(("first", "step", "count"), [(0, 1, 4), (1, 1, 4), (10, 5, 3), (7, 1, 1)])
@pytest.mark.parametrize("bounds", [True, False])
def test_each_task_of_a_slurm_array_has_its_share(
    first: int, step: int, count: int, bounds: bool
) -> None:
    last = first + (count - 1) * step
    shards = []
    for number in range(first, last + 1, step):
        environ = slurm(ID=number, COUNT=count, STEP=step)
        environ |= slurm(MIN=first, MAX=last) if bounds else {}
        shards.append(shard_from_environment(environ))
    assert {shard.index for shard in shards if shard} == set(range(1, count + 1))
    assert {shard.count for shard in shards if shard} == {count}


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        (slurm(ID=3), "SLURM_ARRAY_TASK_COUNT"),
        (slurm(COUNT=3), "SLURM_ARRAY_TASK_ID"),
        (slurm(ID=3) | {f"{SLURM}COUNT": ""}, "SLURM_ARRAY_TASK_COUNT"),
        (slurm(ID=7, COUNT=3, MIN=1, MAX=7), "gaps"),
        (slurm(ID=3, COUNT=3, MIN=1, MAX=7), "gaps"),
        ({"SGE_TASK_ID": "2"}, "SGE_TASK_FIRST"),
        ({"PBS_ARRAY_INDEX": "0"}, "PBS"),
        ({"PBS_ARRAYID": "4"}, "Torque"),
        ({"LSB_JOBINDEX": "4", "LSB_JOBINDEX_END": "8"}, "LSF"),
    ],
)
def test_half_an_array_is_refused(environ: dict[str, str], named: str) -> None:
    with pytest.raises(UsageError, match=rf"{named}.*shard I/N"):
        shard_from_environment(environ)


def test_grid_engine_says_all_that_is_needed() -> None:
    first = {"SGE_TASK_FIRST": "1", "SGE_TASK_LAST": "10", "SGE_TASK_STEPSIZE": "4"}
    found = [shard_from_environment({**first, "SGE_TASK_ID": str(n)}) for n in (1, 5, 9)]
    assert found == [Shard(1, 3), Shard(2, 3), Shard(3, 3)]


def test_outside_of_an_array_there_is_no_share() -> None:
    assert shard_from_environment({}) is None
    assert shard_from_environment({"SGE_TASK_ID": "undefined", "LSB_JOBINDEX": "0"}) is None


def test_what_is_asked_for_wins() -> None:
    assert choose_shard("2/3", slurm(ID=1)) == Shard(2, 3)
    assert choose_shard(None, slurm(ID=1, COUNT=2)) == Shard(2, 2)
