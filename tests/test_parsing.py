"""JSON and XML of any origin."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from tests.hostile.support import refusal_of
from wsisr.errors import UsageError
from wsisr.parsing import (
    MAX_DEPTH,
    MalformedError,
    parse_json,
    parse_xml,
    read_features,
    read_json,
    read_json_object,
)

ROOT = Path(__file__).resolve().parents[1]
CONTENT = {"a": [1, -2.5, 'x[{\\"', None, True, {}], "b": {"c": "ü]]"}, "seed": 2**64 - 1}


def refused(text: str | bytes) -> str:
    with pytest.raises(MalformedError) as error:
        parse_json(text)
    return str(error.value)


def test_values_are_those_of_json() -> None:
    assert parse_json(json.dumps(CONTENT)) == CONTENT
    assert parse_json(b"\xef\xbb\xbf" + json.dumps(CONTENT, ensure_ascii=False).encode()) == CONTENT
    nested = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert json.dumps(parse_json(nested)) == nested


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested"),
        ("[" * 1_000_000, "nested"),
        ('{"a":' * 1_000_000, "nested|memory"),
        ('["' + "]" * 200 + '"' + ",[" * 200, "nested"),
        ("NaN", "no number"),
        ("[-Infinity]", "no number"),
        ("1e999", "too large"),
        ("9" * 5000, "too large"),
        ("[" + "[]," * 4_000_000 + "0]", "memory"),
        ("[" + '{"":0},' * 2_000_000 + "0]", "memory"),
        (" " * ((16 << 20) + 1), "larger than"),
        (b"\xff", "decode"),
        ("", "Expecting value"),
        ("[1,]", "Illegal|Expecting value"),
    ],
    ids=range(14),
)
def test_texts_that_are_refused(text: str | bytes, reason: str) -> None:
    assert re.search(reason, refused(text))


def test_what_stands_in_texts_opens_nothing() -> None:
    assert parse_json('["' + "[" * 1000 + '", "\\"[[' + "[" * 100 + '"]')[0] == "[" * 1000


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "list").write_text("[1]")
    (tmp_path / "long").write_text("[1" + " " * 2000 + "]")
    for name in ("missing", "pipe", "."):
        with pytest.raises(MalformedError, match="cannot be read"):
            read_json(tmp_path / name)
    with pytest.raises(MalformedError, match="not a JSON object"):
        read_json_object(tmp_path / "list")
    with pytest.raises(MalformedError, match="larger than"):
        read_json(tmp_path / "long", max_bytes=1000)


FEATURES = [
    ("[1, 2,3 ]", [1, 2, 3]),
    ("[]", []),
    ("{}", [{}]),
    ('{"features": [], "a": 1}', []),
    ('{"a": {"features": [1]}, "features": [{"b": [2]}, 3], "c": "x"}', [{"b": [2]}, 3]),
    ('{"type": "Polygon", "coordinates": [[1]]}', [{"type": "Polygon", "coordinates": [[1]]}]),
    ('{"features": 5}', [{"features": 5}]),
    ("\ufeff[5]", [5]),
]


@pytest.mark.parametrize(("text", "values"), FEATURES, ids=range(len(FEATURES)))
def test_features(tmp_path: Path, text: str, values: list[object]) -> None:
    file = tmp_path / "a.geojson"
    file.write_text(text, encoding="utf-8")
    assert list(read_features(file)) == values


def test_features_are_those_of_the_whole_wherever_the_file_is_cut(tmp_path: Path) -> None:
    """Numbers, texts and letters of several bytes lie on every border between two reads."""
    values = [{"n": "ü" * (n % 700), "v": [n + 0.125, -n, str(n)]} for n in range(9000)]
    file = tmp_path / "a.geojson"
    file.write_text(json.dumps({"features": values}, ensure_ascii=False), encoding="utf-8")
    assert file.stat().st_size > 3 << 20
    assert list(read_features(file)) == values


@pytest.mark.parametrize(
    "text", ["", "5", '"x"', "[1", "[1 2]", "[1,2]]", '{"a" 1}', "{1:2}", "[NaN]", "[" * 100_000]
)
def test_features_that_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.geojson"
    file.write_text(text)
    with pytest.raises(MalformedError):
        list(read_features(file))


def test_a_large_file_takes_little_memory(tmp_path: Path) -> None:
    file = tmp_path / "a.geojson"
    ring = json.dumps([[i + 0.5, i * 1.25] for i in range(200)])
    feature = f'{{"geometry": {{"type": "Polygon", "coordinates": [{ring}]}}}}'
    file.write_text('{"features": [' + ",".join([feature] * 8_000) + "]}")
    assert file.stat().st_size > 20 << 20

    def count() -> None:
        raise UsageError(f"{sum(1 for _ in read_features(file))} features")

    assert refusal_of(count, seconds=60) == "8000 features"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<a>" + "<a/>" * 2_000_000 + "</a>", "memory"),
        ("<a " + " ".join(f'b{i}=""' for i in range(1_000_000)) + "/>", "memory"),
        ("<a>" + "x" * (40 << 20) + "</a>", "larger than"),
        ('<!DOCTYPE a [<!ENTITY b "cc">]><a>&b;</a>', "document type"),
        ("<a>", "damaged"),
        ("", "damaged"),
        ("\0", "damaged"),
    ],
    ids=range(7),
)
def test_xml_that_is_refused(text: str, reason: str) -> None:
    with pytest.raises(MalformedError, match=reason):
        parse_xml(text)


def test_xml_of_great_depth_does_no_harm() -> None:
    def parse() -> None:
        parse_xml("<a>" * 200_000 + "</a>" * 200_000)
        raise UsageError("read")

    assert refusal_of(parse) == "read"


def test_an_encoding_that_is_declared_is_of_no_importance() -> None:
    assert parse_xml('<?xml version="1.0" encoding="latin-1"?><a b="µ"/>').get("b") == "µ"


def test_nothing_else_reads_json_or_xml() -> None:
    """A round trip through JSON of what is our own is none of that."""
    wrong = []
    reads = re.compile(
        r"json\.loads?\((?!json\.dumps|evaluation\.json)|ElementTree\.\w*(parse|from)"
    )
    for file in sorted((ROOT / "wsisr").rglob("*.py")):
        if file.name != "parsing.py":
            lines = file.read_text(encoding="utf-8").splitlines()
            wrong += [f"{file.name}: {line.strip()}" for line in lines if reads.search(line)]
    assert not wrong
