"""Runs the command line: `python -m wsisr`."""

from wsisr.cli import main

if __name__ == "__main__":
    main()
