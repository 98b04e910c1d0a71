"""Whatever a model.json holds, loading it gives a model or one named error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from wsisr.errors import ModelError, UsageError
from wsisr.models import SHIPPED, from_pretrained
from wsisr.models.files.card import read_card

CARD = json.loads((SHIPPED["tiny"] / "model.json").read_text())

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


def paths(value: object, start: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Gives the keys that lead to each value of nested objects, `start` before them."""
    inner = value.items() if isinstance(value, dict) else ()
    deeper = [path for key, item in inner for path in paths(item, (*start, key))]
    return [start, *deeper] if start else deeper


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(path=st.sampled_from(paths(CARD)), value=anything)
@example(path=("sampling",), value={"\n": None})
def test_any_value_anywhere(tmp_path: Path, path: tuple[str, ...], value: object) -> None:
    """The folder holds no weights, so that a sound card ends in an error that names a part."""
    card = json.loads(json.dumps(CARD))
    inner = card
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (tmp_path / "model.json").write_text(json.dumps(card))
    with pytest.raises((ModelError, UsageError)) as raised:
        from_pretrained(tmp_path)
    assert "\n" not in str(raised.value)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.binary(max_size=200) | anything.map(lambda value: json.dumps(value).encode()))
def test_any_bytes(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.json").write_bytes(data)
    with pytest.raises(ModelError, match=r"model\.json"):
        read_card(tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 10_000])
def test_hostile_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(ModelError, match=r"model\.json"):
        read_card(tmp_path)
