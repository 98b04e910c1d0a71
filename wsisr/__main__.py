"""Runs the command line: `python -m wsisr`."""

from wsisr.cli import run

if __name__ == "__main__":
    run()
