"""Ctrl-C and SIGTERM end a training at the end of an iteration, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import Accelerator


@contextmanager
def catch_stop_signals(accelerator: Accelerator) -> Iterator[list[int]]:
    """Yields a list that gets the number of a signal, so that an iteration ends and is saved.

    The second signal ends the process at once. SIGTERM is caught by a single process only: when
    one of several has failed, torchrun ends the others by it, and they cannot go on.
    """
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    signals = [signal.SIGINT] if accelerator.num_processes > 1 else [signal.SIGINT, signal.SIGTERM]
    if threading.current_thread() is not threading.main_thread():
        signals = []
    # a shell lets what it runs in the background ignore Ctrl-C
    heard = [number for number in signals if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in heard}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
