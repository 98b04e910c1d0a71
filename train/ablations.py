r"""Runs the paper's ablations: without stage 1, two degradations, several numbers of iterations.

    python -m train ablations --config train/configs/sd21.yaml --data tiles --out runs/ablations \
        --minutes 9

trains the variants one after the other, in slices of time: give the same command again until it
says `done`. Each variant is a run in OUT/VARIANT, see `python -m train run`; its stage 2 is kept at
four iterations (or by `stage2.loop.keep_every`), and each of them is a model folder for
`wsisr upscale --model`: OUT/VARIANT/models/ITERATION, the last OUT/VARIANT/model. All are judged on
validation tiles (`train.judge`), beside bicubic interpolation: OUT/ablations.csv and .md.

Histo-Diffusion 2024, table 4 (stage 1) and table 6 (degradation, iterations).
"""

from __future__ import annotations

import copy
import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from train.config import read_config
from train.judge import judge_model
from train.loop import (
    LoopConfig,
    Run,
    add_common,
    count,
    lock_folder,
    make_parser,
    run_in_slices,
)
from train.run import advance, check_sections, complete_config, export_model
from wsisr.errors import UsageError
from wsisr.files import write_atomic
from wsisr.sharing import to_csv

KEPT = 4
"""Number of iterations at which a variant is judged, where the config does not say."""


@dataclass(frozen=True)
class Variant:
    """What a variant is trained with.

    Attributes:
        degradation: of the pairs.
        stage1: whether it has a stage 1.
    """

    degradation: str
    stage1: bool = True


VARIANTS = {
    "codeformer": Variant("codeformer"),
    "codeformer-without-stage1": Variant("codeformer", stage1=False),
    "realesrgan": Variant("realesrgan"),
}


def configure(config: dict[str, Any], variant: Variant, autoencoder: Path) -> dict[str, Any]:
    """Makes the config of a variant; one trained autoencoder, where there is one, serves all.

    Args:
        config: sections by stage, for all variants.
        variant: what it is trained with.
        autoencoder: run of the autoencoder.
    """
    made = copy.deepcopy({k: config[k] for k in ("stage1", "latents", "stage2")})
    made["export"] = copy.deepcopy(config.get("export", {}))
    made["stage1"]["degradation"] = made["latents"]["degradation"] = variant.degradation
    if not variant.stage1:
        del made["stage1"]
        made["latents"]["restoration"] = ""
    if "autoencoder" in config:
        made["latents"]["vae"] = str(autoencoder / "vae")
    loop = made["stage2"].setdefault("loop", {})
    every = max(1, int(loop.get("iterations", LoopConfig.iterations)) // KEPT)
    loop["keep_every"] = loop.get("keep_every") or every
    return made


def models(config: dict[str, Any], run: Path, name: str) -> dict[int, Path]:
    """Finds the model folders of a trained variant by iteration, and exports what is missing."""
    last = int(config["stage2"]["loop"].get("iterations", LoopConfig.iterations))
    found = {}
    for snapshot in sorted(p.name for p in (run / "stage2" / "snapshots").iterdir()):
        if int(snapshot) < last:
            folder = run / "models" / snapshot
            if not (folder / "model.json").exists():
                export_model(config, run, f"{name}-{int(snapshot)}", snapshot)
            found[int(snapshot)] = folder
    return {**found, last: run / "model"}


def table(figures: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    """Writes the figures as CSV and as Markdown, a line a model."""
    columns = list(dict.fromkeys(key for row in figures.values() for key in row))
    rows = [[name, *(row.get(key, "") for key in columns)] for name, row in figures.items()]
    lines = [["model", *columns], ["---"] * (len(columns) + 1), *rows]
    return to_csv([["model", *columns], *rows]), "".join(
        f"| {' | '.join(map(str, line))} |\n" for line in lines
    )


def run_ablations(
    config: dict[str, Any],
    run: Run,
    variants: Iterable[str] = tuple(VARIANTS),
    *,
    judged: int = 8,
    threads: int | None = None,
) -> str | None:
    """Goes on with the ablations until they are done or the run's minutes are over.

    Args:
        config: sections stage1, latents, stage2, and autoencoder where there is no base.
        run: data, folder and limits of all of them together.
        variants: names in `VARIANTS`.
        judged: number of validation tiles that models are judged by.
        threads: CPU threads of each stage.

    Returns:
        None when all are trained and judged, else what is next.

    Raises:
        UsageError: a section is missing.
        StageError: a stage failed.
    """
    if lacking := {"stage1", "latents", "stage2"} - config.keys():
        raise UsageError(f"the config has no section {', '.join(sorted(lacking))}")
    began = time.monotonic()

    def rest(place: Path) -> Run:
        """Gives the run in a folder, with the minutes that are left."""
        spent = (time.monotonic() - began) / 60
        left = None if run.minutes is None else run.minutes - spent
        return replace(run, out=place, minutes=left)

    if "autoencoder" in config:
        only = {"autoencoder": config["autoencoder"]}
        if advance(only, rest(run.out), threads=threads):
            return "autoencoder"
    for name in variants:
        made = configure(config, VARIANTS[name], run.out / "autoencoder")
        made = complete_config(made, run.out / name, None)
        left = advance(made, rest(run.out / name), name=name, threads=threads)
        if left:
            return f"{left} of {name}"
        scales = made["latents"].get("scales", (4,))
        rows: list[tuple[str, dict[str, Any], Path | None]] = [("bicubic", {}, None)]
        for iteration, place in models(made, run.out / name, name).items():
            facts = {**asdict(VARIANTS[name]), "iterations": iteration}
            rows.append((f"{name}-{iteration}", facts, place))
        for model, facts, folder in rows:
            left_minutes = rest(run.out).minutes
            if left_minutes is not None and left_minutes <= 0:
                return f"judging {model}"
            add_row(run, model, facts, folder, scales, judged)
    return None


def add_row(
    run: Run,
    model: str,
    facts: Mapping[str, Any],
    folder: Path | None,
    scales: Sequence[int],
    judged: int,
) -> None:
    """Judges a model and writes the tables anew, unless that was done.

    Args:
        run: data and folder of all ablations.
        model: its name in the tables.
        facts: what it was trained with.
        folder: the model; None is bicubic interpolation.
        scales: integer factors.
        judged: number of validation tiles.
    """
    file = run.out / "figures.json"
    figures: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}
    if model in figures:
        return
    first = dict.fromkeys(("degradation", "stage1", "iterations"), "")
    figures[model] = {**first, **facts, **judge_model(folder, run.tiles("val"), scales, judged)}
    write_atomic(file, json.dumps(figures, indent=1).encode())
    for suffix, text in zip(("csv", "md"), table(figures), strict=True):
        write_atomic(run.out / f"ablations.{suffix}", text.encode())


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = make_parser("ablations", __doc__)
    add_common(parser, "SECTION.KEY=VALUE")
    parser.add_argument(
        "--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), help="to train"
    )
    parser.add_argument("--judged", type=count, default=8, help="number of validation tiles")
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    run = Run.from_arguments(args)

    def work() -> str | None:
        config = read_config(args.config, args.set)
        check_sections(config, args.config)
        with lock_folder(args.out):
            return run_ablations(
                config, run, args.variants, judged=args.judged, threads=args.threads
            )

    def result() -> str:
        text: str = (args.out / "ablations.md").read_text()
        return f"{text}done: {args.out}"

    return run_in_slices(work, result, args.out)
