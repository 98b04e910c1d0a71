"""All stages in their order, in slices of time: one command, given again until it says `done`.

    python -m train.run --config train/configs/tiny.yaml --data tiles --out runs/tiny --minutes 9

trains a model from nothing;

    python -m train.run --config train/configs/tiny.yaml --data tiles --out runs/next --minutes 9 \
        --start wsisr/models/weights/tiny

moves a trained model forward: its stage 1 by another cosine, the detail that leads on from it, then
its stage 2 by distillation.
Either way `OUT/distill/model` serves as `wsisr upscale --model`, or, where the config has no
section `distill`, `OUT/model`. A stage whose section is missing is not run; what others need of
it is where the config says.
"""

from __future__ import annotations

import argparse
import copy
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from train.data import write_atomic
from train.errors import StageError
from train.loop import (
    INTERRUPTED,
    POINTER,
    LoopConfig,
    Run,
    add_common,
    alone,
    current,
    in_slices,
    read_config,
)
from train.stages.export import assemble_model
from wsisr.errors import UsageError
from wsisr.models.files import SECOND_STAGE, read_card

DETAIL = ("stage1", "plain", "detail")
FROM_NOTHING = (*DETAIL, "autoencoder", "latents", "stage2", "export", "distill")
FORWARD = (*DETAIL, "distill")
LINKS = ("restoration", "vae", "bank", "teacher", "init", "plain")
"""Keys of sections that name folders."""
PACE = ("iterations", "save_every", "validate_every", "keep_every", "tensorboard")
"""Keys of `loop` that change nothing of an iteration."""
SOURCES = ("stage1", "detail", "autoencoder", "stage2")
"""Stages whose results `export` puts together."""


def planned(config: dict[str, Any], start: Path | None) -> list[str]:
    """The stages that a config asks for, in their order."""
    order = FROM_NOTHING if start is None else FORWARD
    exports = "stage1" in config or "stage2" in config
    wanted = {"export": exports, "plain": "plain" in config and "detail" in config}
    return [name for name in order if wanted.get(name, name in config)]


def check_sections(config: dict[str, Any], file: Path) -> None:
    """Raise UsageError unless each section is that of a stage, and holds keys."""
    for name, section in config.items():
        if name not in FROM_NOTHING:
            raise UsageError(f"{file}: section {name} is of no stage ({', '.join(FROM_NOTHING)})")
        if not isinstance(section, dict) or not isinstance(section.get("loop", {}), dict):
            raise UsageError(f"{file}: section {name} and its loop must be keys and values")


def check_start(start: Path) -> None:
    """Raise ModelError or UsageError unless a folder is a model that distillation can go on with.

    That shows at the last stage otherwise.
    """
    card = read_card(start)
    if not any(part in card.parts for part in SECOND_STAGE):
        raise UsageError(f"--start {start}: has no second stage to move forward")


def complete(config: dict[str, Any], out: Path, start: Path | None) -> dict[str, Any]:
    """The config with the folders of this run in it, for what the run makes itself."""
    stages = planned(config, start)
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


def finished(stage: str, config: dict[str, Any], out: Path) -> bool:
    """Whether a stage of a run has left its result."""
    if stage == "latents":
        return (out / stage / "finished").exists()
    if stage == "export":
        card = out / "model" / "model.json"
        sources = [out / name / POINTER for name in SOURCES]
        newest = max((f.stat().st_mtime for f in sources if f.exists()), default=0.0)
        return card.exists() and card.stat().st_mtime >= newest
    checkpoint = current(out / stage)
    done = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    loop = config[stage].get("loop", {})
    return done >= int(loop.get("iterations", LoopConfig.iterations))


def check_done(config: dict[str, Any], out: Path, start: Path | None) -> None:
    """Raise UsageError where a stage is done by other settings than those of a complete config."""
    file = out / "config.yaml"
    if not file.exists():
        return
    before, now = read_config(file), yaml.safe_load(yaml.safe_dump(config))
    for stage in planned(config, start):
        if stage not in before or recipe(before[stage]) == recipe(now[stage]):
            continue
        # by both, for the length of the schedule may have changed
        if finished(stage, before, out) and finished(stage, config, out):
            result = out / ("model" if stage == "export" else stage)
            raise UsageError(
                f"{out}: {stage} is done, by other settings (see {file.name}); choose another "
                f"--out, or remove {result} and what was made of it"
            )


def recipe(section: dict[str, Any]) -> dict[str, Any]:
    """What of a section decides what comes out, but for its length and for folders, which move."""
    loop = {key: value for key, value in section.get("loop", {}).items() if key not in PACE}
    return {key: value for key, value in section.items() if key not in LINKS} | {"loop": loop}


def launch(stage: str, arguments: Sequence[str]) -> int:
    """Run a stage in a process of its own, which gives its memory back; its exit code.

    Raises:
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once the stage has saved.
    """
    with subprocess.Popen([sys.executable, "-m", f"train.{stage}", *arguments]) as process:
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
    """Go on with a run until it is done or its minutes are over.

    Args:
        config: sections by stage.
        run: data, folder and limits of the whole run.
        name: of the model it makes.
        threads: CPU threads of each stage.
        start: model folder to move forward; None trains from nothing.

    Returns:
        None when all stages are done, else the one that is next.

    Raises:
        StageError: a stage failed; it has said why.
        UsageError: a stage is done by other settings.
    """
    began = time.monotonic()
    config = complete(config, run.out, start)
    run.out.mkdir(parents=True, exist_ok=True)
    file = run.out / "config.yaml"
    check_done(config, run.out, start)
    write_atomic(file, yaml.safe_dump(config, sort_keys=False).encode())
    common = ["--config", str(file), "--data", str(run.data)]
    common += [] if threads is None else ["--threads", str(threads)]
    common += [] if run.limit is None else ["--limit", str(run.limit)]
    common += [] if run.workers is None else ["--workers", str(run.workers)]
    for stage in planned(config, start):
        if finished(stage, config, run.out):
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
        if not finished(stage, config, run.out):
            return stage
    return None


def export_model(config: dict[str, Any], run: Path, name: str, snapshot: str = "") -> Path:
    """Export what a run has trained to its model/, or, with `snapshot`, a folder of stage 2's
    snapshots to its models/. Returns the model folder.
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
    """Run what is left to run; 0 when done or when the time is over, else the stage's code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common(parser, "SECTION.KEY=VALUE")
    parser.add_argument("--start", type=Path, help="model folder to move forward")
    parser.add_argument("--name", default="tiny", help="of the model")
    args = parser.parse_args(arguments)
    run = Run(args.data, args.out, args.minutes, args.limit, args.workers)
    stages: list[str] = []

    def work() -> str | None:
        config = read_config(args.config, args.set)
        check_sections(config, args.config)
        stages.extend(planned(config, args.start))
        if not stages:
            raise UsageError(f"{args.config}: no section of a stage in it")
        if "distill" in stages and args.start is not None:
            check_start(args.start)
        with alone(args.out):
            return advance(config, run, name=args.name, threads=args.threads, start=args.start)

    def result() -> str:
        return f"done: {args.out / ('distill/model' if stages[-1] == 'distill' else 'model')}"

    return in_slices(work, result, args.out)


if __name__ == "__main__":
    sys.exit(main())
