"""The report: one HTML page that needs no network, a tidy CSV, a JSON, GeoJSON for QuPath."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from wsisr.errors import OutputError
from wsisr.evaluation import pictures
from wsisr.evaluation.metrics import Metric
from wsisr.evaluation.nuclei import Segmenter
from wsisr.evaluation.results import Evaluation, TileResult
from wsisr.evaluation.sources import Source

WORST_TILES = 10
WORST_BY = ("nuclei_pq", "ssim", "lr_rmse", "niqe", "brisque")
"""The first of these that ran ranks the tiles."""
PERCEPTION = ("niqe", "brisque", "hf_db")
NOTICE = (
    "Super-resolved pixels are computer-generated. This report is for research and quality "
    "control, not for primary diagnosis."
)
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1c1c22;max-width:1180px;
  margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #ddd;vertical-align:top}
td:first-child,th:first-child{text-align:left}
.ci,.note{color:#5c5c66;font-size:.85em}.maps{display:flex;flex-wrap:wrap;gap:1rem}
figure{margin:0 0 1.2rem}figcaption{font-size:.85em;color:#33333a}img{max-width:100%}
.maps figure{width:270px}.notice{background:#fff4d6;padding:.6rem .9rem;border-radius:4px}
"""


def write_report(
    evaluation: Evaluation,
    source: Source,
    out: Path,
    chosen: Sequence[Metric],
    segmenter: Segmenter,
) -> None:
    """Write report.html, tiles.csv, summary.json and, for slides, tiles.geojson into `out`.

    The folder is made where it is missing. Raises `OutputError` where it cannot be written.
    """
    files = {
        "report.html": to_html(evaluation, source, chosen, segmenter),
        "tiles.csv": evaluation.csv(),
        "summary.json": evaluation.json(),
    }
    if source.size is not None:
        files["tiles.geojson"] = to_geojson(evaluation)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (out / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"--out {out} cannot be written: {error.strerror}") from error


def to_geojson(evaluation: Evaluation) -> str:
    """Return the tiles as QuPath detections in SR's level-0 px, measurements attached."""
    features = []
    for tile in evaluation.tiles:
        p = tile.place
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


def to_html(
    evaluation: Evaluation, source: Source, chosen: Sequence[Metric], segmenter: Segmenter
) -> str:
    """Return the page; pictures stand inside it as data URIs."""
    labels = {metric.name: metric for metric in chosen}
    title = Path(evaluation.inputs["sr"]).name
    sections = [
        f"<h1>{html.escape(title)}: is it true to the real scan?</h1>",
        f'<p class="notice">{NOTICE}</p>',
        _inputs(evaluation),
        _table(evaluation, labels),
        _not_run(evaluation),
        _plot(evaluation),
        _heatmaps(evaluation, source, labels),
        _worst(evaluation, source, labels, segmenter),
        _conventions(evaluation),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>wsisr eval: {html.escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(filter(None, sections))
        + "\n</body></html>\n"
    )


def _inputs(evaluation: Evaluation) -> str:
    rows = [(name, value) for name, value in evaluation.inputs.items()]
    rows.append(("pixel size of SR", f"{evaluation.mpp:g} um/px"))
    rows.append(("tiles judged", str(len(evaluation.tiles))))
    if evaluation.failed:
        failures = "; ".join(f"{name}: {why}" for name, why in evaluation.failed.items())
        rows.append(("tiles that could not be read", failures))
    alignment = evaluation.alignment
    if alignment is not None:
        rows.append(
            (
                "registration",
                f"median residual {alignment.residual_px:.3f} px, 95th percentile "
                f"{alignment.residual_p95_px:.3f} px, {alignment.windows} windows, "
                f"{alignment.inliers} matched features",
            )
        )
    body = "".join(f"<tr><td>{html.escape(a)}</td><td>{html.escape(b)}</td></tr>" for a, b in rows)
    return f"<h2>What was compared</h2><table>{body}</table>"


def _table(evaluation: Evaluation, labels: Mapping[str, Metric]) -> str:
    methods = list(evaluation.methods)
    arrows = {"higher": "↑", "lower": "↓", "zero": "→ 0"}
    head = "".join(f"<th>{html.escape(method)}</th>" for method in methods)
    lines = []
    for name, metric in labels.items():
        if not any(name in values for values in evaluation.methods.values()):
            continue
        cells = "".join(f"<td>{_cell(evaluation, method, name)}</td>" for method in methods)
        text = f"{html.escape(metric.label)} {arrows[metric.better]}"
        lines.append(f"<tr><td>{text}</td>{cells}</tr>")
    return (
        f"<h2>Summary</h2><table><tr><th>measure</th>{head}</tr>{''.join(lines)}</table>"
        f'<p class="note">Means with intervals: {html.escape(evaluation.conventions["intervals"])}'
        ". ↑ higher is better, ↓ lower is better, → 0 closer to zero is better.</p>"
    )


def _cell(evaluation: Evaluation, method: str, name: str) -> str:
    value = evaluation.methods[method].get(name, math.nan)
    if math.isnan(value):
        return "–"
    low, high = evaluation.intervals[method][name]
    undefined = evaluation.undefined[method].get(name, 0)
    note = f"; {undefined} tiles without a value" if undefined else ""
    return f'{_number(value)}<br><span class="ci">{_number(low)} to {_number(high)}{note}</span>'


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "∞" if value > 0 else "–"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}"


def _not_run(evaluation: Evaluation) -> str:
    if not evaluation.not_run:
        return ""
    items = "".join(
        f"<li><b>{html.escape(name)}</b>: not run: {html.escape(reason)}</li>"
        for name, reason in evaluation.not_run.items()
    )
    return f"<h2>What did not run</h2><ul>{items}</ul>"


def _plot(evaluation: Evaluation) -> str:
    measured = {name for values in evaluation.methods.values() for name in values}
    perception = next((name for name in PERCEPTION if name in measured), None)
    if perception is None or "psnr" not in measured:
        return ""
    points = {
        method: (values["psnr"], abs(values[perception]))
        for method, values in evaluation.methods.items()
    }
    drawn = pictures.perception_distortion(
        points, "PSNR (dB): right is closer to the scan", f"|{perception}|: lower looks more real"
    )
    return f"<h2>Perception and distortion</h2>{drawn}" if drawn else ""


def _heatmaps(evaluation: Evaluation, source: Source, labels: Mapping[str, Metric]) -> str:
    if source.thumbnail is None or source.size is None:
        return ""
    method = next(iter(evaluation.methods))
    places = [tile.place for tile in evaluation.tiles]
    figures = []
    for name, metric in labels.items():
        values = [_value(tile, method, name) for tile in evaluation.tiles]
        if not any(math.isfinite(value) for value in values):
            continue
        image, low, high = pictures.heatmap(source.thumbnail, source.size, places, values)
        image = pictures.reduced(image, 540)
        caption = f"{html.escape(metric.label)}: dark {_number(low)}, light {_number(high)}"
        figures.append(
            f'<figure><img src="{pictures.data_uri(image)}" alt="{html.escape(name)} by tile">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    return f'<h2>Where on the slide</h2><div class="maps">{"".join(figures)}</div>'


def _worst(
    evaluation: Evaluation, source: Source, labels: Mapping[str, Metric], segmenter: Segmenter
) -> str:
    method = next(iter(evaluation.methods))
    ranking = next((name for name in WORST_BY if name in evaluation.methods[method]), None)
    if ranking is None:
        return ""
    sign = 1.0 if labels[ranking].better == "higher" else -1.0
    ranked = [
        (sign * _value(tile, method, ranking), index, tile)
        for index, tile in enumerate(evaluation.tiles)
        if math.isfinite(_value(tile, method, ranking))
    ]
    figures = []
    for _, _, tile in sorted(ranked)[:WORST_TILES]:
        image, panels = pictures.strip(source.load(tile.place), source.mpp, segmenter)
        shown = ", ".join(
            f"{name} {_number(_value(tile, method, name))}"
            for name in ("psnr", "ssim", "nuclei_precision", "nuclei_recall", "hf_db", "lr_rmse")
            if math.isfinite(_value(tile, method, name))
        )
        figures.append(
            f'<figure><img src="{pictures.data_uri(image)}" alt="{" | ".join(panels)}">'
            f"<figcaption><b>{html.escape(tile.place.name)}</b> ({' | '.join(panels)}): "
            f"{shown}</figcaption></figure>"
        )
    return (
        f"<h2>The worst tiles by {html.escape(labels[ranking].label)}</h2>"
        '<p class="note">Red outlines in SR: nuclei the scan does not have. Yellow outlines in HR: '
        "nuclei the result has lost. Insets show the framed piece enlarged.</p>" + "".join(figures)
    )


def _conventions(evaluation: Evaluation) -> str:
    rows = "".join(
        f'<tr><td>{html.escape(name)}</td><td style="text-align:left">{html.escape(text)}</td></tr>'
        for name, text in evaluation.conventions.items()
    )
    versions = ", ".join(f"{name} {number}" for name, number in evaluation.versions.items())
    return (
        f"<h2>Conventions</h2><table>{rows}</table>"
        f'<p class="note">Made with {html.escape(versions)}.</p>'
    )


def _value(tile: TileResult, method: str, name: str) -> float:
    item = tile.values.get(method, {}).get(name)
    return math.nan if item is None else item.value
