"""Runs one program of bench.quality: `python -m bench.quality [PROGRAM] ...`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bench.command import dispatch

PROGRAMS = {
    "table": "Measures methods on folders of real tiles, also in the shapes of the paper's tables.",
    "seams": "Certifies that the windows of the model do not show in the output.",
    "consistency": "Measures how far the output, averaged, agrees with the input.",
    "uncertainty": "Measures whether the spread of samples tells where they are wrong.",
    "sensitivity": "Puts known faults into real tiles and tells which measures notice them.",
    "golden": "Prints the hashes of six runs and compares them with those of an earlier version.",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program that the first word names, the quality table without one."""
    return dispatch("bench.quality", PROGRAMS, arguments, default="table")


if __name__ == "__main__":
    sys.exit(main())
