"""The config.json of a part: read, and kept within what a network may be made of.

A network's parameters are not allocated while it is made, but its modules and buffers are. So what
decides their number is bounded before any of them is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wsisr.errors import ModelError
from wsisr.parsing import MalformedError, read_json_object

MAX_SIDE = 16384
"""The largest whole number: the widest layers of such networks have a tenth of it."""
MAX_WINDOW = 16
"""The largest window of attention, whose table of positions grows with its fourth power."""
MAX_LIST = 16
MAX_BLOCKS = 512
"""Blocks that a network may have, as the product of all that multiplies them."""
MAX_TEXT = 200
POSITIVE = frozenset({"attention_head_dim", "norm_num_groups", "num_heads"})
_DEPTHS = ("layers", "blocks", "depth")


def read_config(place: Path) -> dict[str, Any]:
    """Reads and checks the config.json of a part.

    Args:
        place: the part's folder.

    Raises:
        ModelError: it is missing, not a JSON object, or describes no network within bounds.
    """
    file = place / "config.json"
    if not file.is_file():
        raise ModelError(f"{place}: part missing (no config.json)")
    try:
        config = read_json_object(file)
        check_network(config)
    except MalformedError as error:
        raise ModelError(f"{file}: not readable as JSON ({error})") from error
    except ValueError as error:
        raise ModelError(f"{file}: {error}") from error
    return config


def check_network(config: Mapping[str, Any]) -> None:
    """Refuses a description of a network that is beyond all bounds.

    Args:
        config: argument -> value.

    Raises:
        ValueError: a value that no such network has.
    """
    blocks = longest = 1
    for name, value in config.items():
        if name.startswith("_"):
            continue
        values = list(_leaves(name, value))
        for each in values:
            _check_leaf(name, each)
        numbers = [each for each in values if isinstance(each, int | float)]
        longest = max(longest, len(values))
        if any(word in name for word in _DEPTHS) and numbers:
            blocks *= max(1, math.ceil(max(numbers)))
    if blocks * longest > MAX_BLOCKS:
        raise ValueError(f"describes a network of more than {MAX_BLOCKS} blocks")


def _leaves(name: str, value: object, depth: int = 0) -> Iterator[object]:
    if isinstance(value, list):
        if len(value) > MAX_LIST or depth > 2:
            raise ValueError(f"`{name[:MAX_TEXT]}` has more than {MAX_LIST} values")
        for each in value:
            yield from _leaves(name, each, depth + 1)
    else:
        yield value


def _check_leaf(name: str, value: object) -> None:
    limit = MAX_WINDOW if name == "window_size" else MAX_SIDE
    if name in POSITIVE and isinstance(value, int | float) and value < 1:
        raise ValueError(f"`{name}` is {value:g}, and must be 1 or more")
    if isinstance(value, int | float):
        if not -1 <= value <= limit:
            raise ValueError(f"`{name[:MAX_TEXT]}` is {value:g}, and may be at most {limit}")
    elif value is not None and not (isinstance(value, str) and len(value) <= MAX_TEXT):
        raise ValueError(f"`{name[:MAX_TEXT]}` is neither a number nor a name")
