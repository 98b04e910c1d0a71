"""Runs all stages in their order, in slices of time, given again until it says `done`.

    python -m train run --config train/configs/tiny.yaml --data tiles --out runs/tiny --minutes 9

trains a model from nothing;

    python -m train run --config train/configs/tiny.yaml --data tiles --out runs/next --minutes 9 \
        --start wsisr/models/weights/tiny

moves a trained model forward: its stage 1 by another cosine, the detail that leads on from it, then
its stage 2 by distillation. Either way `OUT/distill/model` serves as `wsisr upscale --model`, or,
where the config has no section `distill`, `OUT/model`. A stage whose section is missing is not run;
what others need of it is where the config says.
"""

from __future__ import annotations

import copy
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from train.config import read_config
from train.errors import StageError
from train.loop import (
    INTERRUPTED,
    POINTER,
    LoopConfig,
    Run,
    add_common,
    current_checkpoint,
    lock_folder,
    make_parser,
    run_in_slices,
)
from train.stages import assemble_model
from wsisr.errors import UsageError
from wsisr.files import write_atomic
from wsisr.models.files import SECOND_STAGE, read_card

DETAIL = ("stage1", "plain", "detail")
FROM_NOTHING = (*DETAIL, "autoencoder", "latents", "stage2", "export", "distill")
FORWARD = (*DETAIL, "distill")
FOLDER_KEYS = ("restoration", "vae", "bank", "teacher", "init", "plain")
"""Keys of sections that name folders."""
SCHEDULE_KEYS = ("iterations", "save_every", "validate_every", "keep_every", "tensorboard")
"""Keys of `loop` that change nothing of an iteration."""
SOURCES = ("stage1", "detail", "autoencoder", "stage2")
"""Stages whose results `export` puts together."""


def planned_stages(config: dict[str, Any], start: Path | None) -> list[str]:
    """Lists the stages that a config asks for, in their order.

    Args:
        config: sections by stage.
        start: model folder to move forward; None trains from nothing.
    """
    order = FROM_NOTHING if start is None else FORWARD
    exports = "stage1" in config or "stage2" in config
    wanted = {"export": exports, "plain": "plain" in config and "detail" in config}
    return [name for name in order if wanted.get(name, name in config)]


def check_sections(config: dict[str, Any], file: Path) -> None:
    """Checks that each section is that of a stage, and holds keys.

    Raises:
        UsageError: one is not, or does not.
    """
    for name, section in config.items():
        if name not in FROM_NOTHING:
            raise UsageError(f"{file}: section {name} is of no stage ({', '.join(FROM_NOTHING)})")
        if not isinstance(section, dict) or not isinstance(section.get("loop", {}), dict):
            raise UsageError(f"{file}: section {name} and its loop must be keys and values")


def check_start(start: Path) -> None:
    """Checks that a folder is a model that distillation can go on with.

    That would show at the last stage otherwise.

    Raises:
        ModelError: it is no model, or broken.
        UsageError: the model has no second stage.
    """
    card = read_card(start)
    if not any(part in card.parts for part in SECOND_STAGE):
        raise UsageError(f"--start {start}: has no second stage to move forward")


def complete_config(config: dict[str, Any], out: Path, start: Path | None) -> dict[str, Any]:
    """Puts the folders of this run into a copy of a config, for what the run makes itself.

    Args:
        config: sections by stage.
        out: folder of the run.
        start: model folder to move forward; None trains from nothing.
    """
    stages = planned_stages(config, start)
    last = "detail" if "detail" in stages else "stage1"
    first, restoration = (out / name / "restoration" for name in ("stage1", last))
    links: list[tuple[str, str, str | None, Path]]  # section, key, the stage that makes it, where
    if start is None:
        links = [
            ("latents", "restoration", last, restoration),
            ("latents", "vae", "autoencoder", out / "autoencoder" / "vae"),
            ("stage2", "bank", "latents", out / "latents"),
            ("distill", "teacher", "export", out / "model"),
        ]
    else:
        links = [
            ("stage1", "init", None, start / "restoration"),
            ("distill", "teacher", None, start),
            ("distill", "restoration", last, restoration),
        ]
    links += [
        ("plain", "init", "stage1", first),
        ("detail", "init", "stage1", first),
        ("detail", "plain", "plain", out / "plain" / "model" / "restoration"),
    ]
    config = copy.deepcopy(config)
    for section, key, maker, place in links:
        if section in stages and (maker is None or maker in stages):
            config[section][key] = str(place)
    return config


def is_finished(stage: str, config: dict[str, Any], out: Path) -> bool:
    """Tells whether a stage of a run has left its result."""
    if stage == "latents":
        return (out / stage / "finished").exists()
    if stage == "export":
        card = out / "model" / "model.json"
        sources = [out / name / POINTER for name in SOURCES]
        newest = max((f.stat().st_mtime for f in sources if f.exists()), default=0.0)
        return card.exists() and card.stat().st_mtime >= newest
    checkpoint = current_checkpoint(out / stage)
    done = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    loop = config[stage].get("loop", {})
    return done >= int(loop.get("iterations", LoopConfig.iterations))


def check_done(config: dict[str, Any], out: Path, start: Path | None) -> None:
    """Checks that what is done was done by the settings of a complete config.

    Args:
        config: sections by stage, with the folders of this run.
        out: folder of the run.
        start: model folder to move forward; None trains from nothing.

    Raises:
        UsageError: a stage is done by other settings.
    """
    file = out / "config.yaml"
    if not file.exists():
        return
    before, now = read_config(file), yaml.safe_load(yaml.safe_dump(config))
    for stage in planned_stages(config, start):
        if stage not in before or recipe(before[stage]) == recipe(now[stage]):
            continue
        # by both, for the length of the schedule may have changed
        if is_finished(stage, before, out) and is_finished(stage, config, out):
            result = out / ("model" if stage == "export" else stage)
            raise UsageError(
                f"{out}: {stage} is done, by other settings (see {file.name}); choose another "
                f"--out, or remove {result} and what was made of it"
            )


def recipe(section: dict[str, Any]) -> dict[str, Any]:
    """Gives what of a section decides what comes out, but for its length and for folders."""
    loop = {
        key: value for key, value in section.get("loop", {}).items() if key not in SCHEDULE_KEYS
    }
    return {key: value for key, value in section.items() if key not in FOLDER_KEYS} | {"loop": loop}


def launch(stage: str, arguments: Sequence[str]) -> int:
    """Runs a stage in a process of its own, which gives its memory back.

    Args:
        stage: its name.
        arguments: of its command line.

    Returns:
        Its exit code.

    Raises:
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once the stage has saved.
    """
    with subprocess.Popen([sys.executable, "-m", "train", stage, *arguments]) as process:
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            code = process.wait()
        except KeyboardInterrupt:  # a terminal has told the stage as well
            code = process.wait()
            raise
        finally:
            signal.signal(signal.SIGTERM, before)
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    return code


def advance(
    config: dict[str, Any],
    run: Run,
    *,
    name: str = "tiny",
    threads: int | None = None,
    start: Path | None = None,
) -> str | None:
    """Goes on with a run until it is done or its minutes are over.

    Args:
        config: sections by stage.
        run: data, folder and limits of the whole run.
        name: name of the model that it makes.
        threads: CPU threads of each stage.
        start: model folder to move forward; None trains from nothing.

    Returns:
        None when all stages are done, else the one that is next.

    Raises:
        StageError: a stage failed; it has said why.
        UsageError: a stage is done by other settings.
    """
    began = time.monotonic()
    config = complete_config(config, run.out, start)
    run.out.mkdir(parents=True, exist_ok=True)
    file = run.out / "config.yaml"
    check_done(config, run.out, start)
    write_atomic(file, yaml.safe_dump(config, sort_keys=False).encode())
    common = ["--config", str(file), "--data", str(run.data)]
    common += [] if threads is None else ["--threads", str(threads)]
    common += [] if run.limit is None else ["--limit", str(run.limit)]
    common += [] if run.workers is None else ["--workers", str(run.workers)]
    common += ["--slides", ",".join(run.slides)] if run.slides else []
    for stage in planned_stages(config, start):
        if is_finished(stage, config, run.out):
            continue
        if stage == "export":
            export_model(config, run.out, name)
            continue
        arguments = [*common, "--out", str(run.out / stage)]
        if run.minutes is not None:
            left = run.minutes - (time.monotonic() - began) / 60
            if left <= 0:
                return stage
            arguments += ["--minutes", f"{left:.3f}"]
        code = launch(stage, arguments)
        if code:
            raise StageError(stage, code)
        if not is_finished(stage, config, run.out):
            return stage
    return None


def export_model(config: dict[str, Any], run: Path, name: str, snapshot: str = "") -> Path:
    """Exports what a run has trained.

    Args:
        config: sections by stage, with the folders of this run.
        run: folder of the run.
        name: name of the model.
        snapshot: a folder of stage 2's snapshots to export in place of its last iteration.

    Returns:
        The model folder: model/ of the run, or models/SNAPSHOT.
    """
    last = "detail" if "detail" in config else "stage1"
    latents = config.get("latents", {"restoration": run / last / "restoration"})
    base = config.get("stage2", {}).get("base") or None
    stage2 = run / "stage2" / "snapshots" / snapshot if snapshot else run / "stage2"
    out = run / "models" / snapshot if snapshot else run / "model"
    assemble_model(
        out,
        name,
        (config.get("latents") or config["stage1"]).get("scales", (4,)),
        config.get("export", {}).get("sampling", {}),
        stage1=Path(latents["restoration"]).parent if latents.get("restoration") else None,
        autoencoder=Path(latents["vae"]).parent if latents.get("vae") and not base else None,
        stage2=stage2 if "stage2" in config else None,
        base=base,
    )
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is left to run; 0 when done or when the time is over, else the stage's code."""
    parser = make_parser("run", __doc__)
    add_common(parser, "SECTION.KEY=VALUE")
    parser.add_argument("--start", type=Path, help="model folder to move forward")
    parser.add_argument("--name", default="tiny", help="name of the model")
    args = parser.parse_args(arguments)
    run = Run.from_arguments(args)
    stages: list[str] = []

    def work() -> str | None:
        config = read_config(args.config, args.set)
        check_sections(config, args.config)
        stages.extend(planned_stages(config, args.start))
        if not stages:
            raise UsageError(f"{args.config}: no section of a stage in it")
        if "distill" in stages and args.start is not None:
            check_start(args.start)
        with lock_folder(args.out):
            return advance(config, run, name=args.name, threads=args.threads, start=args.start)

    def result() -> str:
        return f"done: {args.out / ('distill/model' if stages[-1] == 'distill' else 'model')}"

    return run_in_slices(work, result, args.out)
