"""Runs one program of bench.speed: `python -m bench.speed PROGRAM ...`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bench.command import dispatch

PROGRAMS = {
    "engine": "Measures what the engine adds to the model, where its time goes, and memory.",
    "io": "Measures the writer and the reader beside pyvips and openslide.",
    "reader": "Measures the slide readers beside openslide.",
    "writer": "Measures speed and memory of the pyramid writer beside pyvips.",
    "kernels": "Measures the kernels beside the plain way of doing the same.",
    "optimisations": "Measures what each optimisation of the model gains on this machine.",
    "start": "Measures how long a command takes until its first word or window.",
    "scaleout": "Measures how windows are shared among processes, and among GPUs that are assumed.",
    "evaluation": "Measures what judging costs: speed, where the time goes, and memory.",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program that the first word names, or lists the programs."""
    return dispatch("bench.speed", PROGRAMS, arguments)


if __name__ == "__main__":
    sys.exit(main())
