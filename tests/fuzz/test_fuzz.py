"""Every parser on inputs that are changed at random, and on those that were found before."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.fuzz.corpus import FOUND
from tests.fuzz.harness import fuzz
from tests.fuzz.parsers import Parser, all_parsers

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0.4"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
FEWEST = 2


@pytest.fixture(scope="module")
def parsers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Parser]]:
    folder = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSISR_WEIGHTS", str(folder / "weights"))
        yield {parser.name: parser for parser in all_parsers(folder)}


def test_the_valid_inputs_are_taken(parsers: dict[str, Parser]) -> None:
    refused = {"TorchScript", "heads of JPEG", "heads of JPEG 2000", "TIFF"}
    for parser in parsers.values():
        if parser.name not in refused:
            for seed in parser.seeds:
                parser.run(seed)


def test_changed_inputs(parsers: dict[str, Parser], subtests: pytest.Subtests) -> None:
    for parser in parsers.values():
        with subtests.test(parser.name):
            found = fuzz(parser, SEED, SECONDS)
            assert not found.faults
            assert found.inputs >= FEWEST


def test_inputs_that_were_found(parsers: dict[str, Parser]) -> None:
    assert {name for name, _ in FOUND} <= set(parsers)
    for name, parser in parsers.items():
        seeds = tuple(data for known, data in FOUND if known == name)
        if seeds:
            alone = Parser(name, seeds, parser.run, parser.mutate, parser.allowed)
            found = fuzz(alone, SEED, 0.0)
            assert not found.faults, name
            assert found.inputs == len(seeds)
