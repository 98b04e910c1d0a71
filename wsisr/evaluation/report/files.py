"""The files of a report: an HTML page, a tidy CSV, a JSON, GeoJSON for QuPath."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from wsisr.errors import OutputError
from wsisr.evaluation.measures import Metric
from wsisr.evaluation.nuclei import Segmenter
from wsisr.evaluation.pairing import PairSource
from wsisr.evaluation.report.html import to_html
from wsisr.evaluation.report.results import Evaluation

REPORT = "report.html"
"""The page that people read."""


def write_report(
    evaluation: Evaluation,
    pairs: PairSource,
    out: Path,
    chosen: Sequence[Metric],
    segmenter: Segmenter,
) -> None:
    """Writes report.html, tiles.csv, summary.json and, for slides, tiles.geojson.

    Args:
        evaluation: the figures.
        pairs: gives the pixels that pictures show.
        out: the folder, which is made where it is missing.
        chosen: the measures that ran, in the order of the page.
        segmenter: what found the nuclei whose outlines pictures show.

    Raises:
        OutputError: the folder cannot be written.
    """
    files = {
        REPORT: to_html(evaluation, pairs, chosen, segmenter),
        "tiles.csv": evaluation.csv(),
        "summary.json": evaluation.json(),
    }
    if pairs.size is not None:
        files["tiles.geojson"] = to_geojson(evaluation)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (out / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"<out> {out} cannot be written: {error.strerror}") from error


def to_geojson(evaluation: Evaluation) -> str:
    """Gives the tiles as QuPath detections in SR's level-0 px, measurements attached."""
    features = []
    for tile in evaluation.tiles:
        p = tile.location
        right, bottom = p.x + p.width, p.y + p.height
        ring = [[p.x, p.y], [right, p.y], [right, bottom], [p.x, bottom], [p.x, p.y]]
        measured = {
            f"{method}: {name}": value
            for method, values in tile.values.items()
            for name, (value, _) in values.items()
            if math.isfinite(value)
        }
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "properties": {"objectType": "tile", "name": p.name, "measurements": measured},
            }
        )
    return json.dumps({"type": "FeatureCollection", "features": features}, allow_nan=False)
