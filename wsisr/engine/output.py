"""The outputs of a run: each takes windows with what was computed, and finishes its own pyramid."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsisr.engine.blend import Cell, CellBlender
from wsisr.engine.exact import fit_cell
from wsisr.engine.preparation import Run
from wsisr.engine.resume import fingerprint, written_tiles
from wsisr.engine.runner import Computed
from wsisr.engine.stream import Stopwatch
from wsisr.engine.tiles import TileCutter
from wsisr.engine.uncertainty import Summary, as_counts, companion_path
from wsisr.engine.windows import ReadWindow
from wsisr.plan import Plan
from wsisr.pyramid import PyramidSpec, PyramidWriter, open_writer

ENCODING_THREADS = 2
MAP_THREADS = 1


class Output(ABC):
    """One pyramid under way: windows in, blended into cells, cut into tiles, handed to a writer.

    Subclasses say what of a window they take, and what they do to a finished cell.

    Args:
        writer: takes the tiles; those that it has already are left out.
        clock: counts the time as `blending` and as `waiting to encode`.

    Attributes:
        pixels_done: pixels that this run has finished.
    """

    def __init__(self, writer: PyramidWriter, clock: Stopwatch) -> None:
        self.writer, self._clock = writer, clock
        self._blender: CellBlender
        self._cutter: TileCutter
        self._rows_done = 0
        self.pixels_done = 0

    def begin(self, plan: Plan, rows_done: int, device: torch.device) -> None:
        """Makes ready for the windows of a plan.

        Args:
            plan: the windows that come, in its order.
            rows_done: rows of tiles that are written above the plan's region.
            device: where blending runs.
        """
        self._blender = CellBlender(plan, device)
        self._cutter = TileCutter(plan.region, self.writer.spec.tile, self.writer.spec.samples)
        self._rows_done = rows_done

    def take(self, item: ReadWindow, computed: Computed) -> None:
        """Takes the next window of the plan."""
        window = item.window
        with self._clock("blending"):
            pixels = self.pixels_of(computed)
            cell = self._blender.push(window.row, window.column, pixels)
            if cell is None:
                return
            self.finish_cell(item, cell)
            if item.lr is not None:
                self.pixels_done += cell.pixels.shape[0] * cell.pixels.shape[1]
            finished = np.ascontiguousarray(cell.pixels[..., : self.writer.spec.samples])
            tiles = list(self._cutter.put(cell.x, cell.y, finished))
        with self._clock("waiting to encode"):
            for row, column, tile in tiles:
                self._write(self._rows_done + row, column, tile)

    @abstractmethod
    def pixels_of(self, computed: Computed) -> NDArray[Any] | Tensor:
        """Gives what is blended of a window: (window, window, 3)."""

    @abstractmethod
    def finish_cell(self, item: ReadWindow, cell: Cell) -> None:
        """Does what there is to do with a finished cell, which may be changed in place."""

    def finish(self, additions: Mapping[str, Any]) -> None:
        """Completes the output under its name, with its own provenance.

        Args:
            additions: what is known of the run only now.
        """
        self.writer.finish({**self.writer.spec.provenance, **additions})

    def sha256(self) -> str:
        """Gives the digest of all rows that were cut, top to bottom."""
        return self._cutter.sha256()

    def _write(self, row: int, column: int, tile: NDArray[np.uint8]) -> None:
        if self.writer.done(row, column):
            return
        if (tile == self.writer.spec.background).all():
            self.writer.write_blank(row, column)
        else:
            self.writer.write_tile(row, column, tile)


class ImageOutput(Output):
    """The upscaled slide.

    Args:
        writer: takes the tiles.
        clock: counts the time.
        exact_scale: the whole scale at which finished cells are fitted to the input's bytes; None
            leaves them as they are.
    """

    def __init__(self, writer: PyramidWriter, clock: Stopwatch, exact_scale: int | None) -> None:
        super().__init__(writer, clock)
        self._exact_scale = exact_scale

    def pixels_of(self, computed: Computed) -> NDArray[Any] | Tensor:
        """See `Output`."""
        return computed.pixels

    def finish_cell(self, item: ReadWindow, cell: Cell) -> None:
        """See `Output`."""
        if self._exact_scale is not None and item.lr is not None:
            fit_cell(cell, item.lr, item.left, item.top, self._exact_scale)


class MapOutput(Output):
    """The uncertainty map: one channel, of which the three that are blended are copies.

    Attributes:
        summary: the figures of the cells under tissue.
    """

    def __init__(self, writer: PyramidWriter, clock: Stopwatch) -> None:
        super().__init__(writer, clock)
        self.summary = Summary()

    def pixels_of(self, computed: Computed) -> NDArray[Any] | Tensor:
        """See `Output`; every sample of glass is the same."""
        if computed.deviation is None:
            return np.zeros(computed.pixels.shape, np.float32)
        return as_counts(computed.deviation)

    def finish_cell(self, item: ReadWindow, cell: Cell) -> None:
        """See `Output`."""
        if item.tissue is not None:
            self.summary.add(cell)


def open_outputs(run: Run, stack: ExitStack, clock: Stopwatch) -> list[Output]:
    """Opens the outputs of a run, the image first.

    Args:
        run: says what they are.
        stack: closes them; of a run that fails what it has stored is kept.
        clock: counts their time.

    Raises:
        UsageError: an output exists, or an unfinished run that is another one.
        OutputError: an output cannot be written.
    """
    job = run.job
    image = open_writer(
        job.output,
        run.image,
        threads=ENCODING_THREADS,
        overwrite=job.overwrite,
        resume=job.resume,
        fingerprint=fingerprint(run.image),
        url=job.destination,
        blanks_damage=run.damaged is not None,
    )
    stack.enter_context(image)
    outputs: list[Output] = [
        ImageOutput(image, clock, round(run.plan.scale) if job.exact else None)
    ]
    if run.map is not None:
        writer = _open_map(run, run.map, image)
        stack.enter_context(writer)
        outputs.append(MapOutput(writer, clock))
    return outputs


def _open_map(run: Run, spec: PyramidSpec, image: PyramidWriter) -> PyramidWriter:
    """Opens the writer of the uncertainty map beside the image's."""
    # a run that was killed between its two outputs has left the map finished: it is made again
    is_resumed = bool(written_tiles(image).any())
    return open_writer(
        companion_path(run.job.output),
        spec,
        threads=MAP_THREADS,
        overwrite=run.job.overwrite or is_resumed,
        resume=True if is_resumed else run.job.resume,
        fingerprint=fingerprint(spec),
        blanks_damage=run.damaged is not None,
    )
