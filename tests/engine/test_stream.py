from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from wsisr.engine.stream import Prefetch, Stopwatch


def test_items_come_in_order() -> None:
    with Prefetch(range(50), 3, "t") as stage:
        assert list(stage) == list(range(50))


def test_the_producer_stays_within_its_depth() -> None:
    made = 0

    def produce() -> Iterator[int]:
        nonlocal made
        for i in range(100):
            made += 1
            yield i

    with Prefetch(produce(), 4, "t") as stage:
        items = iter(stage)
        next(items)
        time.sleep(0.3)
        assert made <= 6


def test_an_error_reaches_the_consumer_through_a_chain() -> None:
    def fail() -> Iterator[int]:
        yield 1
        raise ValueError("tile 7")

    with Prefetch(fail(), 2, "a") as first, Prefetch((i for i in first), 2, "b") as second:
        items = iter(second)
        assert next(items) == 1
        with pytest.raises(ValueError, match="tile 7"):
            next(items)


def test_leaving_early_ends_all_threads() -> None:
    before = threading.active_count()

    def endless() -> Iterator[int]:
        i = 0
        while True:
            yield (i := i + 1)

    with Prefetch(endless(), 2, "a") as first, Prefetch((i for i in first), 2, "b") as second:
        assert next(iter(second)) == 1
    assert threading.active_count() == before


def test_an_error_of_the_consumer_ends_all_threads() -> None:
    before = threading.active_count()

    def consume() -> None:
        with Prefetch(iter(range(10**9)), 2, "a") as stage:
            for _ in stage:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        consume()
    assert threading.active_count() == before


def test_stopwatch_adds_up() -> None:
    clock = Stopwatch()
    for _ in range(2):
        with clock("a"):
            time.sleep(0.02)
    assert 0.04 <= clock.seconds["a"] < 0.5
