"""What an evaluation yields, and its form as JSON and CSV."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from wsisr.evaluation.measures import Measurement
from wsisr.evaluation.pairing import Alignment, Location
from wsisr.sharing import to_csv


@dataclass(frozen=True)
class TileResult:
    """One tile's measurements.

    Attributes:
        location: where the tile lies.
        values: {method: {metric: (value, weight)}}.
    """

    location: Location
    values: Mapping[str, Mapping[str, Measurement]]


@dataclass(frozen=True)
class Evaluation:
    """The whole result of an evaluation.

    Attributes:
        methods: {method: {metric: mean}}.
        intervals: {method: {metric: 95 % interval of the mean}}.
        undefined: {method: {metric: how many tiles had no value}} (no nuclei, no detail).
        unmatched: {method: {what: nuclei without a match}}, as `NucleiAgreement.unmatched` counts.
        not_run: {metric: why it did not run}.
        conventions: {metric: how it is computed exactly}.
        alignment: where SR lies in HR; None where nothing was registered.
        also_alignments: {label: what SR's registration leaves over for a further result}.
        inputs: {what: path}.
        versions: {library: version} that figures depend on.
        mpp: um/px of SR.
        tiles: the single tiles.
        failed: {tile: why it could not be read}.
    """

    methods: Mapping[str, Mapping[str, float]]
    intervals: Mapping[str, Mapping[str, tuple[float, float]]]
    undefined: Mapping[str, Mapping[str, int]]
    unmatched: Mapping[str, Mapping[str, int]]
    not_run: Mapping[str, str]
    conventions: Mapping[str, str]
    alignment: Alignment | None
    also_alignments: Mapping[str, Alignment]
    inputs: Mapping[str, str]
    versions: Mapping[str, str]
    mpp: float
    tiles: tuple[TileResult, ...]
    failed: Mapping[str, str]

    def summary(self) -> dict[str, object]:
        """Gives everything but the single tiles, ready for JSON."""
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
        """Gives `summary` as strict JSON text."""
        return to_json(self.summary())

    def csv(self) -> str:
        """Gives one line a tile, method and metric; undefined values are empty."""
        rows: list[list[object]] = [
            ["slide", "tile", "x", "y", "width", "height", "method", "metric", "value", "weight"]
        ]
        for tile in self.tiles:
            at = tile.location
            where = [at.group, at.name, at.x, at.y, at.width, at.height]
            for method, values in tile.values.items():
                for name, (value, weight) in values.items():
                    shown = "" if value != value else float(value)
                    rows.append([*where, method, name, shown, f"{weight:g}"])
        return to_csv(rows)

    def table(self) -> str:
        """Gives one line a metric, one column a method."""
        methods = list(self.methods)
        names = list(dict.fromkeys(name for m in methods for name in self.methods[m]))
        wide = max(16, *(len(method) + 2 for method in methods))
        lines = [f"{'':24}" + "".join(f"{method:>{wide}}" for method in methods)]
        for name in names:
            cells = (self.methods[m].get(name, float("nan")) for m in methods)
            lines.append(f"{name:24}" + "".join(f"{value:{wide}.4g}" for value in cells))
        return "\n".join(lines)


def to_json(value: object) -> str:
    """Gives strict JSON text: NaN and infinities become null."""
    return json.dumps(_finite(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
