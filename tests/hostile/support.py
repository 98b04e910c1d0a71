"""Runs a reader in a child that may take no more than so much memory."""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
from collections.abc import Callable

from wsisr.errors import WsisrError

LIMIT_BYTES = 1 << 30
SECONDS = 20.0


def refusal_of(action: Callable[[], object], *, seconds: float = SECONDS) -> str:
    """Carries out an action in a forked child; gives the one line that it is refused with.

    The child may take `LIMIT_BYTES` more than this process has. An empty text means that nothing
    was refused; whatever is no `WsisrError` fails the test.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        os.write(writing, _outcome(action).encode()[:4000])
        os._exit(0)
    os.close(writing)
    killer = threading.Timer(seconds, lambda: os.kill(pid, 9))
    begun = time.monotonic()
    killer.start()
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read().decode()
    _, status, usage = os.wait4(pid, 0)
    killer.cancel()
    assert status == 0, f"the child ended with {status} after {time.monotonic() - begun:.1f} s"
    kind, _, text = told.partition(" ")
    assert kind in ("refused", "done"), told
    grown = usage.ru_maxrss * 1024 - own_bytes()
    assert grown < LIMIT_BYTES, f"{grown >> 20} MB were taken"
    assert "\n" not in text
    assert len(text) < 1500
    return text


def own_bytes() -> int:
    with open("/proc/self/statm") as file:  # noqa: PTH123 -- no path of the user's
        return int(file.read().split()[1]) * resource.getpagesize()


def _outcome(action: Callable[[], object]) -> str:
    with open("/proc/self/statm") as file:  # noqa: PTH123 -- no path of the user's
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + LIMIT_BYTES, mapped + LIMIT_BYTES))
    try:
        action()
    except WsisrError as error:
        return f"refused {error}"
    except BaseException as error:
        sys.stdout.flush()
        return f"uncaught {type(error).__name__}: {error}"
    return "done "
