"""The files of a report: an HTML page, a tidy CSV, a JSON, GeoJSON for QuPath."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from wsisr.errors import OutputError
from wsisr.evaluation.measures import Metric
from wsisr.evaluation.nuclei import FOLDER, Segmenter, is_own_folder
from wsisr.evaluation.pairing import PairSource
from wsisr.evaluation.report.html import to_html
from wsisr.evaluation.report.results import Evaluation
from wsisr.files import write_atomic
from wsisr.guard import refuse_foreign, refuse_inputs, refuse_links
from wsisr.parsing import MalformedError, read_json_object

FILES = ("report.html", "tiles.csv", "summary.json", "tiles.geojson")
"""Names of the files of a report."""


def check_report(out: Path, inputs: Iterable[Path]) -> None:
    """Makes sure that a report replaces nothing but an older report.

    Args:
        out: the folder of the report, which need not exist.
        inputs: files and folders that are read.

    Raises:
        UsageError: a file of the report is an input, or was not made by an evaluation.
    """
    files = [out / name for name in FILES]
    folders = [out / FOLDER, out / f"{FOLDER}.partial", out / f"{FOLDER}.replaced"]
    read = list(inputs)
    refuse_inputs([*files, *folders], [path for path in read if not _holds(path, out)])
    refuse_links([*files, *folders])
    is_ours = is_own_report(out)
    for path in files:
        refuse_foreign(path, lambda _: is_ours, overwrite=True)
    for path in folders:
        refuse_foreign(path, is_own_folder, overwrite=True)


def is_own_report(out: Path) -> bool:
    """Tells whether a folder has the report of an evaluation."""
    try:
        summary = read_json_object(out / "summary.json")
    except MalformedError:
        return False
    versions = summary.get("versions")
    return isinstance(versions, dict) and "wsisr" in versions and "methods" in summary


def _holds(folder: Path, out: Path) -> bool:
    """Tells whether a report is to stand in a folder of tiles, which is no harm to them."""
    return folder.is_dir() and folder.resolve() in (out / FILES[0]).resolve().parents


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
            write_atomic(out / name, text)
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
