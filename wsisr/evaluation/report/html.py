"""The report: one HTML page that needs no network, a tidy CSV, a JSON, GeoJSON for QuPath."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from wsisr.errors import OutputError
from wsisr.evaluation.measures import Metric
from wsisr.evaluation.nuclei import FOLDER, INVENTED, LOST, MATCH_IOU, OVERLAP_IOU, Segmenter
from wsisr.evaluation.pairing import Source
from wsisr.evaluation.report import pictures
from wsisr.evaluation.report.results import Evaluation, TileResult
from wsisr.resize import shrink_within

WORST_TILES = 10
WORST_BY = ("nuclei_pq", "ssim", "lr_rmse", "niqe", "brisque")
"""The first of these that ran ranks the tiles."""
PERCEPTION = ("niqe", "brisque", "hf_db")
NOTICE = (
    "Super-resolved pixels are computer-generated. This report is for research and quality "
    "control, not for primary diagnosis."
)
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Content security policy of the page: a browser loads nothing from anywhere else."""
MINUS = "−"  # noqa: RUF001 -- a hyphen is too short beside figures
ARROWS = {"higher": "↑", "lower": "↓", "zero": "→ 0"}
GROUPS = {
    "True to the scan, pixel by pixel": ("psnr", "ssim", "ms_ssim", "lr_rmse"),
    "Nuclei": (
        "nuclei_recall", "nuclei_precision", "nuclei_pq", "nuclei_count_difference",
        "nuclei_area_difference", "l1_texture", "l1_intensity",
    ),
    "Stain, blur and grids": ("hed_shift", "hf_db", "comb_db", "comb_level_db", "mesh_share"),
}  # fmt: skip
"""Rows of the summary under headings; other measures stand under a heading of their own."""
_STYLE = """
:root{--ink:#1b1b21;--soft:#5b5b66;--line:#e3e3e8;--paper:#f7f7f9}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif;color:var(--ink);
  max-width:1240px;margin:0 auto;padding:2.2rem 1.4rem 4rem;background:#fff}
h1{font-size:1.65rem;line-height:1.25;margin:0 0 .9rem;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.6rem 0 .7rem;padding-top:.7rem;border-top:1px solid var(--line)}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:.34rem .9rem .34rem 0;text-align:right;border-bottom:1px solid var(--line);
  vertical-align:baseline}
td+td,th+th{padding-left:1.1rem}td:first-child,th:first-child{text-align:left}
.summary th{color:var(--soft);font-weight:600}.summary th.group{color:var(--ink);
  padding-top:1.1rem;border-bottom:1px solid #b9b9c3}
.facts td{text-align:left;overflow-wrap:anywhere}.facts td:first-child{color:var(--soft);
  white-space:nowrap;padding-right:1rem}
.best{font-weight:650}.best .ci{font-weight:400}.ci,.note{color:var(--soft);font-size:.85em}
.notice{background:#fff4d6;padding:.6rem .9rem;border-radius:6px;margin:0 0 1.2rem}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(180px,1fr));gap:.8rem}
.card{background:var(--paper);border-radius:8px;padding:.7rem .95rem}
.card b{display:block;font-size:1.55rem;line-height:1.3;font-variant-numeric:tabular-nums}
.maps{display:grid;grid-template-columns:repeat(auto-fill,minmax(250px,1fr));gap:1.3rem 1.1rem}
figure{margin:0 0 1.6rem}.maps figure{margin:0}figcaption{font-size:.88em}
img,svg{max-width:100%;height:auto;display:block}svg text{font-size:13px;fill:var(--ink)}
.ramp{display:block;height:8px;border-radius:4px;margin:.45rem 0 .15rem;
  background:linear-gradient(90deg,#440154,#3b528b,#21918c,#5ec962,#fde725)}
.ends{display:flex;justify-content:space-between;color:var(--soft);font-size:.82em;
  font-variant-numeric:tabular-nums}
.heads{display:grid;font-weight:600;font-size:.88em;margin-bottom:.25rem}
.key{display:inline-block;width:.8em;height:.8em;border-radius:2px;border:1px solid #333;
  margin-right:.3em;vertical-align:-.05em}
li{overflow-wrap:anywhere}summary{cursor:pointer}
@media print{h2{break-after:avoid}figure,.card{break-inside:avoid}}
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
    question = "is it true to the real scan?" if "hr" in evaluation.inputs else "judged alone"
    sections = [
        f"<h1>{html.escape(title)}: {question}</h1>",
        f'<p class="notice">{NOTICE}</p>',
        _cards(evaluation),
        _table(evaluation, labels),
        _worst(evaluation, source, labels, segmenter),
        _heatmaps(evaluation, source, labels),
        _plot(evaluation, labels),
        _inputs(evaluation),
        _not_run(evaluation),
        _conventions(evaluation),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>wsisr eval: {html.escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(filter(None, sections))
        + "\n</body></html>\n"
    )


def _cards(evaluation: Evaluation) -> str:
    """Return the answers a reader looks for first, each in words with its figure."""
    method = next(iter(evaluation.methods))
    values = evaluation.methods[method]
    answers = (
        ("nuclei_recall", "of the scan's nuclei have no match in the result", _unmatched),
        (
            "nuclei_precision",
            "of the result's nuclei have no match in the scan",
            _unmatched,
        ),
        ("hf_db", "of fine detail against the scan; below 0 is blur", _decibels),
        ("lr_rmse", "grey levels away from the low-resolution input (RMSE)", "{:.2f}".format),
    )
    cards = [
        (show(values[name]), text)
        for name, text, show in answers
        if math.isfinite(values.get(name, math.nan))
    ]
    if evaluation.alignment is not None:
        cards.append((f"{evaluation.alignment.residual_px:.2f} px", "left over by registration"))
    body = "".join(
        f'<div class="card"><b>{html.escape(figure)}</b>{html.escape(text)}</div>'
        for figure, text in cards
    )
    if not body:
        return ""
    whose = ""
    if len(evaluation.methods.keys() - {"bicubic"}) > 1:
        whose = (
            f'<p class="note">These figures, the order of the worst tiles and the maps are those '
            f"of <b>{html.escape(method)}</b>.</p>"
        )
    return f'<div class="cards">{body}</div>{whose}{_about_unmatched(evaluation)}'


def _about_unmatched(evaluation: Evaluation) -> str:
    """Return what lost and invented mean here, with the counts of the first method."""
    counts = evaluation.unmatched.get(next(iter(evaluation.methods)))
    if counts is None:
        return ""
    return (
        '<p class="note">Nuclei of both images match where the intersection over union (IoU) of '
        f"their outlines is above {MATCH_IOU}. A nucleus that both have but that is outlined "
        "differently therefore counts twice: as lost and as invented. "
        f"Of {counts['lost']} lost nuclei {counts['lost_overlapping']} overlap one of the result, "
        f"of {counts['invented']} invented ones {counts['invented_overlapping']} overlap one of "
        f"the scan (IoU {OVERLAP_IOU} to {MATCH_IOU}); the rest have no counterpart.</p>"
    )


def _unmatched(share: float) -> str:
    return f"{100 * (1 - share):.1f} %"


def _decibels(value: float) -> str:
    return f"{value:+.1f} dB".replace("-", MINUS)


def _inputs(evaluation: Evaluation) -> str:
    rows = [(name, value) for name, value in evaluation.inputs.items()]
    for label, found in evaluation.also_alignments.items():
        rows.append((f"{label} by SR's registration", f"residual {found.residual_px:.3f} px"))
    rows.append(("pixel size of SR", f"{evaluation.mpp:g} µm/px"))
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
    return f'<h2>What was compared</h2><table class="facts">{body}</table>'


def _table(evaluation: Evaluation, labels: Mapping[str, Metric]) -> str:
    methods = list(evaluation.methods)
    head = "".join(f"<th>{html.escape(method)}</th>" for method in methods)
    shown = [n for n in labels if any(n in values for values in evaluation.methods.values())]
    grouped = {name for names in GROUPS.values() for name in names}
    groups = {**GROUPS, "Perception": tuple(name for name in shown if name not in grouped)}
    lines = []
    for title, names in groups.items():
        rows = [name for name in names if name in shown]
        if rows:
            span = len(methods) + 1
            lines.append(f'<tr><th class="group" colspan="{span}">{html.escape(title)}</th></tr>')
        for name in rows:
            best = _best(evaluation, labels[name])
            cells = "".join(
                f'<td class="{"best" if method in best else "other"}">'
                f"{_cell(evaluation, method, name)}</td>"
                for method in methods
            )
            text = f"{_titled(labels[name])}"
            lines.append(f"<tr><td>{text}</td>{cells}</tr>")
    return (
        f'<h2>Summary</h2><table class="summary"><tr><th>measure</th>{head}</tr>{"".join(lines)}'
        "</table>"
        f'<p class="note">Means with intervals: {html.escape(evaluation.conventions["intervals"])}'
        ". ↑ higher is better, ↓ lower is better, → 0 closer to zero is better; the best of a row "
        "is bold.</p>"
    )


def _titled(metric: Metric) -> str:
    """Return a measure's name with the direction that is better."""
    return f"{html.escape(metric.label)} {ARROWS[metric.better]}"


def _best(evaluation: Evaluation, metric: Metric) -> set[str]:
    """Return the methods that are best at a measure; none where there is nothing to compare."""
    sign = {"higher": 1.0, "lower": -1.0, "zero": -1.0}[metric.better]
    values = {
        method: sign * (abs(found[metric.name]) if metric.better == "zero" else found[metric.name])
        for method, found in evaluation.methods.items()
        if not math.isnan(found.get(metric.name, math.nan))
    }
    if len(values) < 2:
        return set()
    return {method for method, value in values.items() if value == max(values.values())}


def _cell(evaluation: Evaluation, method: str, name: str) -> str:
    value = evaluation.methods[method].get(name, math.nan)
    if math.isnan(value):
        return "–"
    low, high = evaluation.intervals[method][name]
    undefined = evaluation.undefined[method].get(name, 0)
    note = f"; {undefined} tiles without a value" if undefined else ""
    return f'{_number(value)} <span class="ci">{_number(low)} to {_number(high)}{note}</span>'


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "∞" if value > 0 else "–"
    return (f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}").replace("-", MINUS)


def _not_run(evaluation: Evaluation) -> str:
    if not evaluation.not_run:
        return ""
    items = "".join(
        f"<li><b>{html.escape(name)}</b>: not run: {html.escape(reason)}</li>"
        for name, reason in evaluation.not_run.items()
    )
    count = len(evaluation.not_run)
    return (
        f"<h2>What did not run</h2><details><summary>{count} measures, and how to get them"
        f"</summary><ul>{items}</ul></details>"
    )


def _plot(evaluation: Evaluation, labels: Mapping[str, Metric]) -> str:
    measured = {name for values in evaluation.methods.values() for name in values}
    perception = next((name for name in PERCEPTION if name in measured), None)
    if perception is None or "psnr" not in measured:
        return ""
    points = {
        method: (values.get("psnr", math.nan), abs(values.get(perception, math.nan)))
        for method, values in evaluation.methods.items()
    }
    label = labels[perception].label
    name = f"distance from 0 of {label}" if labels[perception].better == "zero" else label
    drawn = pictures.perception_distortion(
        points, "PSNR (dB): right is closer to the scan", f"{name}: lower looks more real"
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
        image = shrink_within(image, 540)
        caption = (
            f'{_titled(metric)}<span class="ramp"></span><span class="ends">'
            f"<span>{_number(low)}</span><span>{_number(high)}</span></span>"
        )
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
        image, panels = pictures.strip(source.load(tile.place), source.mpp, segmenter, method)
        shown = ", ".join(
            f"{html.escape(labels[name].label)} {_number(_value(tile, method, name))}"
            for name in ("psnr", "ssim", "nuclei_precision", "nuclei_recall", "hf_db", "lr_rmse")
            if math.isfinite(_value(tile, method, name))
        )
        figures.append(
            f'<figure><div class="heads" style="grid-template-columns:repeat({len(panels)},1fr)">'
            + "".join(f"<span>{html.escape(panel)}</span>" for panel in panels)
            + f'</div><img src="{pictures.data_uri(image)}" '
            f'alt="{html.escape(" | ".join(panels))}">'
            f"<figcaption><b>{html.escape(tile.place.name)}</b>: {shown}</figcaption></figure>"
        )
    note = "Insets show the framed piece three times enlarged."
    if method in evaluation.unmatched:
        note = (
            f"{_key(INVENTED)}in results: nuclei the scan does not have. {_key(LOST)}in HR: nuclei "
            f"the result has lost. {note} The outlines of all judged tiles stand in "
            f"<code>{FOLDER}</code> beside this page, for QuPath."
        )
    return (
        f"<h2>The worst tiles by {html.escape(labels[ranking].label)}</h2>"
        f'<p class="note">{note}</p>' + "".join(figures)
    )


def _key(colour: tuple[int, int, int]) -> str:
    return f'<span class="key" style="background:rgb{colour}"></span>'


def _conventions(evaluation: Evaluation) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(text)}</td></tr>"
        for name, text in evaluation.conventions.items()
    )
    versions = ", ".join(f"{name} {number}" for name, number in evaluation.versions.items())
    return (
        f'<h2>Conventions</h2><table class="facts">{rows}</table>'
        f'<p class="note">Made with {html.escape(versions)}.</p>'
    )


def _value(tile: TileResult, method: str, name: str) -> float:
    item = tile.values.get(method, {}).get(name)
    return math.nan if item is None else item.value
