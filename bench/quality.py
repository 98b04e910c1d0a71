"""Quality table: methods x metrics on folders of real 40x tiles.

    python -m bench.quality --tiles ../shared/data/tiles/val --scales 4,8 \
        --methods bicubic,tiny,restore --json quality.json

Each tile is area-averaged by the scale to its LR input, upscaled by every method and measured
against the tile itself. A method is `bicubic`, `hr` (the tile itself: what a perfect result would
score), a folder of ready PNG files (named like the tiles; with several scales in sub-folders
`x4`, `x8`), or any model name or folder that wsisr knows.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from wsisr.errors import UsageError, WsisrError
from wsisr.evaluation import metrics
from wsisr.evaluation.fidelity import area_downsample, bicubic_upsample
from wsisr.evaluation.pixels import Image
from wsisr.evaluation.sources import read_image

Method = Callable[[Image, Path], Image]
"""Takes the LR tile and the path of its HR tile, returns the SR tile."""
TILE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


def list_tiles(folder: Path, limit: int | None = None) -> list[Path]:
    """Return the image files under `folder`, sorted; with `limit`, that many spread evenly."""
    if not folder.is_dir():
        raise UsageError(f"--tiles {folder} is not a folder")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in TILE_SUFFIXES)
    if not found:
        raise UsageError(f"--tiles {folder} holds no image files {TILE_SUFFIXES}")
    if limit is None or limit >= len(found):
        return found
    return [found[i * len(found) // limit] for i in range(limit)]


def resolve_method(name: str, scale: int, device: str, folder: Path) -> Method:
    """Return the upscaling function of a method's name; see the module's text for names."""
    if name == "bicubic":
        return lambda lr, _: bicubic_upsample(lr, scale)
    if name == "hr":
        return lambda _, path: read_image(path)
    ready = Path(name)
    if ready.is_dir() and not (ready / "model.json").exists():
        root = ready / f"x{scale}" if (ready / f"x{scale}").is_dir() else ready
        return lambda _, path: _ready_image(root, path, folder)
    return model_method(name, scale, device)


def model_method(name: str, scale: int, device: str) -> Method:
    """Return a model as a method: windows of 512 px, blended as the engine does.

    Raises `ModelError` for a model that is not there or broken.
    """
    # torch and diffusers take seconds to import: pixel baselines do without
    from wsisr.engine import upscale_array
    from wsisr.models import load_upscaler

    model = load_upscaler(name, device=device)
    return lambda lr, _: upscale_array(lr, scale, model=model)


def _ready_image(root: Path, path: Path, folder: Path) -> Image:
    relative = path.relative_to(folder).with_suffix(".png")
    for candidate in (root / relative, root / relative.name):
        if candidate.exists():
            return read_image(candidate)
    raise UsageError(f"{root} has no {relative}, the result for tile {path.name}")


def measure(
    tiles: Sequence[Path],
    folder: Path,
    scale: int,
    methods: Mapping[str, Method],
    chosen: Sequence[metrics.Metric],
    show_progress: bool = True,
) -> dict[str, dict[str, float]]:
    """Return {method: {metric: mean}}; tiles without a value are left out of a mean."""
    rows: dict[str, list[dict[str, metrics.Measurement]]] = {name: [] for name in methods}
    for path in tqdm(tiles, desc=f"x{scale}", unit="tile", disable=not show_progress):
        hr = read_image(path)
        height, width = (side // scale * scale for side in hr.shape[:2])
        hr = np.ascontiguousarray(hr[:height, :width])
        lr = area_downsample(hr, scale)
        scan = metrics.Scan(hr)
        for name, method in methods.items():
            sr = method(lr, path)
            if sr.shape != hr.shape:
                sr = np.ascontiguousarray(sr[:height, :width])
            rows[name].append(metrics.measure_tile(metrics.Sample(sr, scan, lr), chosen))
    return {name: metrics.summarize(values) for name, values in rows.items()}


def run(
    folder: Path,
    scales: Sequence[int],
    method_names: Sequence[str],
    limit: int | None = None,
    device: str = "cpu",
    only: Sequence[str] | None = None,
    show_progress: bool = True,
) -> dict[str, object]:
    """Return the benchmark's JSON object: `methods`, `not_run`, `conventions`, `setting`."""
    tiles = list_tiles(folder, limit)
    chosen, not_run = metrics.available(only)
    table: dict[str, dict[str, float]] = {}
    for scale in scales:
        methods: dict[str, Method] = {}
        for name in method_names:
            try:
                methods[name] = resolve_method(name, scale, device, folder)
            except WsisrError as error:
                not_run[f"{name} x{scale}"] = str(error)
        measured = measure(tiles, folder, scale, methods, chosen, show_progress)
        for name, values in measured.items():
            table[f"{name} x{scale}" if len(scales) > 1 else name] = values
    return {
        "methods": table,
        "not_run": not_run,
        "conventions": metrics.conventions(chosen),
        "setting": {"tiles": str(folder), "count": len(tiles), "scales": list(scales)},
    }


def to_markdown(result: Mapping[str, object]) -> str:
    """Return the methods x metrics table as Markdown, with what did not run below it."""
    table = result["methods"]
    assert isinstance(table, dict)
    names = list(dict.fromkeys(metric for values in table.values() for metric in values))
    lines = ["| method | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for method, values in table.items():
        cells = [_cell(values.get(name, math.nan)) for name in names]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    not_run = result["not_run"]
    assert isinstance(not_run, dict)
    lines += ["", *(f"- {name}: not run: {reason}" for name, reason in not_run.items())]
    return "\n".join(lines).rstrip()


def _cell(value: float) -> str:
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "inf"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, print the table, write the JSON; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.quality", description=__doc__)
    parser.add_argument("--tiles", type=Path, required=True, help="folder of real 40x tiles")
    parser.add_argument("--scales", default="4,8", help="comma-separated integers")
    parser.add_argument("--methods", default="bicubic", help="comma-separated names or folders")
    parser.add_argument("--metrics", default=None, help="comma-separated; default: all available")
    parser.add_argument("--limit", type=int, default=None, help="that many tiles, spread evenly")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, default=None, help="write the result here")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    try:
        result = run(
            options.tiles,
            [int(scale) for scale in options.scales.split(",")],
            options.methods.split(","),
            options.limit,
            options.device,
            options.metrics.split(",") if options.metrics else None,
            not options.quiet,
        )
    except WsisrError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(to_markdown(result))
    if options.json is not None:
        options.json.write_text(metrics.to_json(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
