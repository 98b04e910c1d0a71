"""Fuzzes every parser for as long as one likes: python -m tests.fuzz [SECONDS] [NAME ...]."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.harness import as_table, fuzz
from tests.fuzz.parsers import all_parsers

MEMORY = "/dev/shm"


def main() -> int:
    seconds = float(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("FUZZ_SECONDS", "60"))
    names = sys.argv[2:]
    seed = int(os.environ.get("FUZZ_SEED", time.time_ns() % 2**32))
    found = {}
    with tempfile.TemporaryDirectory(dir=MEMORY if Path(MEMORY).is_dir() else None) as folder:
        os.environ["WSISR_WEIGHTS"] = f"{folder}/weights"
        for parser in all_parsers(Path(folder)):
            if names and parser.name not in names:
                continue
            found[parser.name] = fuzz(parser, seed, seconds)
            for place, data in found[parser.name].faults.items():
                sys.stdout.write(f"{parser.name}: {place}\n    {data}\n")
                sys.stdout.flush()
    sys.stdout.write(f"seed {seed}, {seconds:g} s a parser\n{as_table(found)}\n")
    return any(each.faults for each in found.values())


if __name__ == "__main__":
    sys.exit(main())
