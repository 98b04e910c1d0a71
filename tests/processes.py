"""`wsisr` as a process of its own, without the seconds that its imports take.

The standard library's fork server imports the engine once, before any thread is started; each run
is a fork of it. What a fresh interpreter does beyond that is tested by `python -m wsisr` in few
places, for which `python` is here.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path

import psutil

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "wsisr.cli.main",
        "wsisr.engine.run",
        "wsisr.models.dualstage",
        "wsisr.models.networks.controlnet",
        "wsisr.scaleout.cohort.crew",
        "wsisr.scaleout.worker",
        "wsisr.transcode",
        "numcodecs",
        "zarr",
        "tests.faults.warm",
    ]
)


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


class Run:
    """A running `wsisr ARGUMENTS`; the interface of `subprocess.Popen`, as far as it is used.

    With `forks` its worker processes, too, are forks of the server, and so its children.
    """

    def __init__(
        self,
        *arguments: object,
        cwd: Path | None = None,
        forks: bool = False,
        **environment: str,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._streams = [Path(self._folder.name, name) for name in ("stdout", "stderr")]
        words = list(map(str, arguments))
        settings = (words, cwd or Path.cwd(), self._streams, {**os.environ, **environment}, forks)
        self._process = CONTEXT.Process(target=_main, args=settings)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float = 300) -> Done:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            raise TimeoutError(f"still running after {timeout} s")
        with self._folder:
            texts = [path.read_text() if path.exists() else "" for path in self._streams]
        return Done(code, *texts)


def workers() -> list[psutil.Process]:
    """Lists the forks that run: commands, and the workers of those that fork theirs."""
    with suppress(psutil.NoSuchProcess):
        server = psutil.Process(forkserver._forkserver._forkserver_pid)
        # the server also starts the tracker of the standard library
        return [each for each in server.children() if each.cmdline() == server.cmdline()]
    return []


def wsisr(*arguments: object, cwd: Path | None = None) -> Done:
    """Run the command to its end."""
    return Run(*arguments, cwd=cwd).wait()


def python(code: str, *arguments: object, cwd: Path | None = None) -> Done:
    """Run code in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def _main(
    arguments: list[str],
    cwd: Path,
    streams: list[Path],
    environment: dict[str, str],
    forks: bool,
) -> None:
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.update(environment)
    os.chdir(cwd)
    # a suite started in the background passes on that SIGINT is ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["wsisr", *arguments]
    from wsisr.cli import run

    if forks:
        from wsisr.scaleout import pool
        from wsisr.scaleout.cohort import crew

        # the server that this is a fork of, for a second one would take seconds to start
        forkserver._forkserver.ensure_running = lambda: None  # type: ignore[method-assign]
        pool._CONTEXT = crew._CONTEXT = CONTEXT
    run()
