"""Measures reading and writing beside the usual tools.

    python -m bench.speed io --json io.json

It measures what `writer` and `reader` measure and puts it into one table.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.command import add_data, add_json, make_parser, report
from bench.speed import reader, writer


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures the writer, then the reader, and prints one table.

    Raises:
        WsisrError: a slide cannot be read, or a file cannot be written.
    """
    parser = make_parser("bench.speed io", __doc__)
    add_data(parser)
    add_json(parser)
    options = parser.parse_args(arguments)
    report({**writer.measure(), **reader.measure(options.data)}, options.json)
    return 0
