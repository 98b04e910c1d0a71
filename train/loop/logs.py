"""What a training leaves to look at: CSV files, pictures and, where wanted, TensorBoard's."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from train.errors import CheckpointError
from train.loop.pictures import save_strip
from wsisr.files import write_atomic


class Logs:
    """Writes log.csv, validation.csv, pictures/ and, where wanted, tensorboard/ of a run.

    Args:
        out: folder of the run.
        tensorboard: whether to write for TensorBoard too.
        start: iteration that the run is resumed at.

    Raises:
        CheckpointError: TensorBoard is wanted and not installed.
    """

    def __init__(self, out: Path, tensorboard: bool, start: int = 0) -> None:
        self.out, self.start = out, start
        self.board: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise CheckpointError(
                    "loop.tensorboard needs TensorBoard; pip install 'wsisr[train]', or set it off"
                ) from error
            self.board = SummaryWriter(str(out / "tensorboard"), purge_step=start + 1)

    def forget(self) -> None:
        """Drops the lines of iterations that a killed run had done after its checkpoint."""
        for name in ("log", "validation"):
            file = self.out / f"{name}.csv"
            if not file.exists():
                continue
            lines = file.read_text().splitlines(keepends=True)
            kept = [*lines[:1], *(line for line in lines[1:] if self._is_kept(line))]
            if len(kept) < len(lines):
                write_atomic(file, "".join(kept).encode())

    def _is_kept(self, line: str) -> bool:
        """Tells whether a line is of an iteration up to the checkpoint."""
        # iteration is the first column; a torn last line goes, too
        number = line.partition(",")[0]
        return number.isdigit() and line.endswith("\n") and int(number) <= self.start

    def row(self, name: str, row: Mapping[str, float]) -> None:
        """Appends a line to NAME.csv; columns that are new are added to all lines."""
        file = self.out / f"{name}.csv"
        old: list[dict[str, str]] = []
        columns: list[str] = []
        if file.exists():
            with file.open(newline="") as handle:
                reader = csv.DictReader(handle)
                columns = list(reader.fieldnames or ())
                if not row.keys() <= set(columns):
                    old = list(reader)
        new = [key for key in row if key not in columns]
        if new:  # at first, and where the machine a run has moved to measures more
            text = io.StringIO()
            writer = csv.DictWriter(text, columns + new, lineterminator="\n")
            writer.writeheader()
            writer.writerows(old)
            write_atomic(file, text.getvalue().encode())
        with file.open("a", newline="") as handle:
            csv.DictWriter(handle, columns + new, lineterminator="\n").writerow(row)
        if self.board is not None:
            for key in row.keys() - {"iteration"}:
                self.board.add_scalar(f"{name}/{key}", row[key], row["iteration"])

    def strip(self, iteration: int, images: Mapping[str, Tensor]) -> None:
        """Writes named batches side by side to pictures/ITERATION.png."""
        file = self.out / "pictures" / f"{iteration:07d}.png"
        pixels = save_strip(file, images)
        if self.board is not None:
            self.board.add_image("validation", pixels, iteration, dataformats="HWC")

    def close(self) -> None:
        """Closes TensorBoard's file."""
        if self.board is not None:
            self.board.close()
