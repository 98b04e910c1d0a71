"""The CSV logs of a training."""

from __future__ import annotations

from pathlib import Path

from tests.train import small
from train.loop.logs import Logs


def test_a_log_takes_figures_that_come_later(tmp_path: Path) -> None:
    logs = Logs(tmp_path, tensorboard=False)
    logs.row("validation", {"iteration": 1, "psnr": 2.0})
    logs.row("validation", {"iteration": 2, "niqe": 4.0, "psnr": 3.0})
    logs.row("validation", {"iteration": 3, "psnr": 5.0})
    rows = [tuple(row.values()) for row in small.log(tmp_path, "validation")]
    assert rows == [("1", "2.0", ""), ("2", "3.0", "4.0"), ("3", "5.0", "")]


def test_a_log_forgets_what_a_killed_run_did_after_its_checkpoint(tmp_path: Path) -> None:
    logs = Logs(tmp_path, tensorboard=False)
    for iteration in (1, 2, 3):
        logs.row("log", {"iteration": iteration, "loss": 0.5})
    with (tmp_path / "log.csv").open("a") as file:
        file.write("4,0.")  # torn
    resumed = Logs(tmp_path, tensorboard=False, start=2)
    resumed.forget()
    resumed.row("log", {"iteration": 3, "loss": 0.25})
    rows = [tuple(row.values()) for row in small.log(tmp_path)]
    assert rows == [("1", "0.5"), ("2", "0.5"), ("3", "0.25")]
