"""What an evaluation yields, and its form as JSON and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from wsisr.evaluation.measures import Measurement, to_json
from wsisr.evaluation.pairing import Alignment, Place


@dataclass(frozen=True)
class TileResult:
    """One tile's measurements: {method: {metric: (value, weight)}}."""

    place: Place
    values: Mapping[str, Mapping[str, Measurement]]


@dataclass(frozen=True)
class Evaluation:
    """The whole result; `methods`, `not_run` and `conventions` as `bench.quality.run` gives them."""

    methods: Mapping[str, Mapping[str, float]]
    intervals: Mapping[str, Mapping[str, tuple[float, float]]]
    """95 % intervals of the means."""
    undefined: Mapping[str, Mapping[str, int]]
    """How many tiles had no value (no nuclei, no detail)."""
    unmatched: Mapping[str, Mapping[str, int]]
    """{method: {what: nuclei without a match}}, as `NucleiAgreement.unmatched` counts them."""
    not_run: Mapping[str, str]
    conventions: Mapping[str, str]
    alignment: Alignment | None
    """None where nothing was registered."""
    also_alignments: Mapping[str, Alignment]
    """What SR's registration leaves over for each further result."""
    inputs: Mapping[str, str]
    versions: Mapping[str, str]
    mpp: float
    tiles: tuple[TileResult, ...]
    failed: Mapping[str, str]
    """Tiles that could not be read, and why."""

    def summary(self) -> dict[str, object]:
        """Return everything but the single tiles, ready for JSON."""
        return {
            "methods": self.methods,
            "not_run": self.not_run,
            "conventions": self.conventions,
            "intervals": self.intervals,
            "undefined_tiles": self.undefined,
            "unmatched_nuclei": self.unmatched,
            "alignment": None if self.alignment is None else asdict(self.alignment),
            "also_alignments": {name: asdict(a) for name, a in self.also_alignments.items()},
            "inputs": self.inputs,
            "versions": self.versions,
            "mpp": self.mpp,
            "tiles": len(self.tiles),
            "failed": self.failed,
        }

    def json(self) -> str:
        """Return `summary` as strict JSON."""
        return to_json(self.summary())

    def csv(self) -> str:
        """Return one line a tile, method and metric; undefined values are empty."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            ["slide", "tile", "x", "y", "width", "height", "method", "metric", "value", "weight"]
        )
        for tile in self.tiles:
            place = tile.place
            where = [place.group, place.name, place.x, place.y, place.width, place.height]
            for method, values in tile.values.items():
                for name, (value, weight) in values.items():
                    shown = "" if value != value else repr(float(value))
                    writer.writerow([*where, method, name, shown, f"{weight:g}"])
        return text.getvalue()
