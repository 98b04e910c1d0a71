"""Reading and writing side by side with the usual tools: `python -m bench.speed.io [--json FILE]`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import bench.speed.reader
import bench.speed.writer


def main() -> None:
    """Measure the writer, then the reader; print one table, write one flat JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    figures = {**bench.speed.writer.measure(), **bench.speed.reader.measure()}
    bench.speed.writer.print_table(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
