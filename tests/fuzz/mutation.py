"""Changes valid inputs at random: bytes, texts and JSON values."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 255, 256, 65535, 2**31 - 1, 2**31, 2**32, 2**53, 2**63,
    2**64, -(2**63), 10**19, 10**30, 0.0, -0.0, 0.5, -0.5, 1e-300, 1e300, -1e300, 1e999, -1e999,
    float("nan"), "", "0", "a", "../..", "/etc/passwd", "\0", "\ud800", "x" * 5000, "1e999", "=1+1",
    "\u202e", [], {}, [[]], [0], [None] * 50, {"": 0}, {"a": {"b": []}}, [[0, 0]], [[1e999, 1]],
)  # fmt: skip
"""What stands in hostile JSON."""
TOKENS = (
    b"[", b"]", b"{", b"}", b'"', b",", b":", b"\\", b"NaN", b"Infinity", b"1e999", b"-", b"\0",
    b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\r\n", b"\t", b";", b"<", b">", b"&", b"]]>", b"<!--",
    b"<!DOCTYPE a>", b"&#0;", b"=", b"'", b"0", b"9999999999999999999999", b"-1", b"0.0", b"../",
)  # fmt: skip
NUMBERS = (0, 1, 2, 4, 8, 16, 255, 256, 4096, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)
MOST_BYTES = 1 << 18


def mutated_bytes(data: bytes, random: Random) -> bytes:
    """Changes a few places of a byte string."""
    out = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3, 5, 9))):
        _change(out, random)
    return bytes(out[:MOST_BYTES])


def _change(out: bytearray, random: Random) -> None:
    place = random.randrange(len(out) + 1)
    end = min(len(out), place + random.choice((1, 2, 4, 8, 16, 64)))
    kind = random.randrange(9)
    if kind == 0 and out:
        out[place % len(out)] ^= 1 << random.randrange(8)
    elif kind == 1 and out:
        out[place % len(out)] = random.randrange(256)
    elif kind == 2:
        del out[place:end]
    elif kind == 3:
        out[place:place] = out[place:end] * random.choice((1, 2, 10, 100))
    elif kind == 4:
        out[place:place] = random.choice(TOKENS)
    elif kind == 5:
        out[place:end] = random.choice(TOKENS)
    elif kind == 6:
        size = random.choice((2, 4, 8))
        number = random.choice(NUMBERS) % (1 << 8 * size)
        out[place : place + size] = number.to_bytes(size, random.choice(("little", "big")))
    elif kind == 7:
        del out[place:]
    else:
        out[place:place] = random.choice((b"[", b'{"a":', b"<a>", b"(")) * random.choice(
            (10, 63, 64, 65, 1000, 5000)
        )


def mutated_json(data: bytes, random: Random) -> bytes:
    """Changes values of a JSON text, or its bytes."""
    if random.random() < 0.2:
        return mutated_bytes(data, random)
    value = json.loads(data)
    for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
        value = _with_change(value, random)
    text = json.dumps(value, ensure_ascii=random.random() < 0.5)
    return text.encode("utf-8", "surrogatepass")[:MOST_BYTES]


def _with_change(value: Any, random: Random) -> Any:
    """Puts something else at a random place of a value."""
    places = list(_places(value))
    if not places or random.random() < 0.02:
        return _other(value, random)
    holder, key = random.choice(places)
    kind = random.randrange(8)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[random.choice((*holder, "", "type", "id", "x" * 300))] = holder[key]
    elif kind == 1:
        holder.extend([holder[key]] * random.choice((1, 2, 100)))
    elif kind == 2:
        holder[key] = copy.deepcopy(random.choice(places)[0])
    else:
        holder[key] = _other(holder[key], random)
    return value


def _other(value: Any, random: Random) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool) and random.random() < 0.5:
        return random.choice((-value, value * 2, value * 1e6, value + 1, value - 1, value / 3))
    if random.random() < 0.05:
        deep: Any = value
        for _ in range(random.choice((5, 62, 70, 300))):
            deep = [deep] if random.random() < 0.5 else {"a": deep}
        return deep
    return copy.deepcopy(random.choice(VALUES))


def _places(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting and len(found) < 2000:
        each = waiting.pop()
        if not isinstance(each, dict | list):
            continue
        for key in each.keys() if isinstance(each, dict) else range(len(each)):
            found.append((each, key))
            if isinstance(each[key], dict | list):
                waiting.append(each[key])
    return found
