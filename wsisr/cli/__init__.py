"""The command line: options in, one call of the public API, messages out."""

from wsisr.cli.main import cli, main

__all__ = ["cli", "main"]
