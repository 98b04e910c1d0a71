"""The group of all commands, the entry point, and how failures are told."""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import suppress
from types import FrameType

import click

from wsisr.caches import check_caches
from wsisr.cli.batch import batch
from wsisr.cli.convert import convert
from wsisr.cli.doctor import doctor
from wsisr.cli.evaluate import evaluate
from wsisr.cli.info import info
from wsisr.cli.models import models
from wsisr.cli.telling import note, tell
from wsisr.cli.upscale import upscale
from wsisr.errors import UsageError, WsisrError
from wsisr.version import VERSION

INTERRUPTED = 130
SPELLINGS = {
    "source": "IN",
    "output": "OUT",
    "checkpoints": "CKPT",
    "sr": "SR",
    "hr": "HR",
}
"""Arguments of the API that are no option of the same name here."""
SMALLER = {
    "upscale": "a smaller --batch or --window",
    "batch": "fewer --workers, or a smaller --batch or --window",
    "convert": "fewer --threads",
    "eval": "fewer --workers",
}
"""What to give a command that ran out of memory."""
RESUMABLE = {"upscale", "batch", "convert"}
"""Commands that leave what the next one goes on from."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="wsisr")
@click.option("--debug", is_flag=True, help="Show tracebacks and debug messages.")
def cli(debug: bool) -> None:
    """Super-resolution of whole-slide histology images. Not for primary diagnosis."""
    level = logging.DEBUG if debug else logging.WARNING
    check_caches()
    told = logging.StreamHandler(sys.stderr)
    told.setLevel(level)
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s", handlers=[told])


for _command in (upscale, batch, convert, evaluate, info, models, doctor):
    cli.add_command(_command)


def run() -> None:
    """Runs the command line; turns expected failures into one line and an exit code."""
    # idle threads of OpenMP give their core to the others; it is read when torch is loaded
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGTERM, _interrupt)
    debug = "--debug" in sys.argv
    try:
        code = cli(standalone_mode=False)
        sys.stdout.flush()
    except (click.exceptions.Abort, KeyboardInterrupt):
        code = _fail(f"interrupted; {way_on(sys.argv)}", INTERRUPTED)
    except click.ClickException as error:
        error.show()
        note(f"wsisr: {error.format_message()}")
        code = UsageError.exit_code
    except WsisrError as error:
        if debug:
            raise
        code = _fail(error.spelled(spell), error.exit_code)
    except MemoryError:
        if debug:
            raise
        code = _fail(f"out of memory; {smaller(sys.argv)}", 1)
    except OSError as error:
        if debug:
            raise
        code = _fail_on(error)
    sys.exit(code if isinstance(code, int) else 0)


def spell(argument: str) -> str:
    """Gives the way in which the command line spells an argument of the API."""
    return SPELLINGS.get(argument, f"--{argument.replace('_', '-')}")


def smaller(arguments: list[str]) -> str:
    """Says what to do about a command that ran out of memory."""
    remedies = [SMALLER[word] for word in arguments if word in SMALLER]
    return f"give {remedies[0]}" if remedies else "close other programs"


def way_on(arguments: list[str]) -> str:
    """Says what to do after an interruption: --overwrite alone would start anew."""
    if not RESUMABLE.intersection(arguments):
        return "the same command starts anew"
    anew = "--no-resume" in arguments or (
        "--overwrite" in arguments and "--resume" not in arguments and "batch" not in arguments
    )
    command = "the same command with --resume" if anew else "the same command"
    return f"{command} goes on where this one stopped"


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _fail(message: str, code: int) -> int:
    # where stderr is full or closed there is nobody to tell
    with suppress(OSError):
        tell(f"wsisr: {' '.join(message.split())}")
    return code


def _fail_on(error: OSError) -> int:
    """Tells an error of the system that concerns no output, such as a full disk behind stdout."""
    if error.filename is None:
        # what is left in the buffer would fail once more when the interpreter ends
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return 1  # the reader has seen enough
    place = error.filename or "stdout"
    return _fail(f"{place}: {error.strerror or error}; make room, or write elsewhere", 1)
