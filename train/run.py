"""All stages in their order, in slices of time: one command, given again until it says `done`.

    python -m train.run --config train/configs/tiny.yaml --data tiles --out runs/tiny --minutes 9

trains a model from nothing (the paths in the config are those of `--out runs/tiny`);

    python -m train.run --config train/configs/tiny.yaml --data tiles --out runs/next --minutes 9 \
        --start wsisr/models/weights/tiny

moves a trained model forward: its stage 1 by another cosine, then its stage 2 by distillation.
Either way `OUT/distill/model` serves as `wsisr upscale --model`, or, where the config has no
section `distill`, `OUT/model`.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Stage:
    """One module of `train` and its arguments.

    Attributes:
        name: of the module, of its config section and of its folder in OUT.
        arguments: beside --config, --data, --out and --minutes.
        trains: whether it writes a log and stops by the clock; else it runs to its end.
    """

    name: str
    arguments: tuple[str, ...] = ()
    trains: bool = True


def stages(out: Path, start: Path | None) -> list[Stage]:
    """The stages of a run from nothing, or from the model folder `start`."""
    if start is None:
        return [
            Stage("stage1"),
            Stage("autoencoder"),
            Stage("latents", trains=False),
            Stage("stage2"),
            Stage("export", trains=False),
            Stage("distill"),
        ]
    return [
        Stage("stage1", ("--set", f"init={start / 'restoration'}")),
        Stage(
            "distill",
            (
                *("--set", f"teacher={start}"),
                *("--set", f"restoration={out / 'stage1' / 'restoration'}"),
            ),
        ),
    ]


def finished(stage: Stage, folder: Path, config: dict[str, Any]) -> bool:
    """Whether the stage has logged its last iteration, or left its result."""
    if not stage.trains:
        return (folder / "finished").exists()
    log = folder / "log.csv"
    if not log.exists():
        return False
    with log.open(newline="") as file:
        last = max((int(row["iteration"]) for row in csv.DictReader(file)), default=0)
    return last >= int(config[stage.name]["loop"]["iterations"])


def command(
    stage: Stage, args: argparse.Namespace, config: Mapping[str, Any], left: float | None
) -> list[str]:
    """The command line of a stage with `left` minutes to go."""
    base = [sys.executable, "-m", f"train.{stage.name}"]
    out: Path = args.out
    if stage.name == "export":
        trained = [part for part in ("stage1", "autoencoder", "stage2") if part in config]
        parts = [f"--{part}={out / part}" for part in trained]
        if base := config["stage2"].get("base"):
            parts.append(f"--base={base}")
        return [*base, *parts, "--name", args.name, "--out", str(out / "model")]
    common = [
        "--config",
        str(args.config),
        "--data",
        str(args.data),
        "--out",
        str(out / stage.name),
    ]
    if args.threads:
        common += ["--threads", str(args.threads)]
    if args.limit:
        common += ["--limit", str(args.limit)]
    if stage.trains and left is not None:
        common += ["--minutes", f"{left:.3f}"]
    return [*base, *common, *stage.arguments]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is left to run; 0 when done or when the time is over, else the stage's code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="YAML file")
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and val/")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; resumed")
    parser.add_argument("--start", type=Path, help="model folder to move forward")
    parser.add_argument("--minutes", type=float, help="stop with a checkpoint after so long")
    parser.add_argument("--name", default="tiny", help="of the model")
    parser.add_argument("--threads", type=int, help="CPU threads of torch")
    parser.add_argument("--limit", type=int, help="use at most so many tiles of each split")
    args = parser.parse_args(arguments)
    config = yaml.safe_load(args.config.read_text())
    began = time.monotonic()
    planned = [s for s in stages(args.out, args.start) if s.name == "export" or s.name in config]
    for stage in planned:
        folder = args.out / stage.name
        if finished(stage, folder, config):
            continue
        left = None if args.minutes is None else args.minutes - (time.monotonic() - began) / 60
        if left is not None and left <= 0:
            print(f"time over before {stage.name}; give the same command again")
            return 0
        done = subprocess.run(command(stage, args, config, left), check=False)
        if done.returncode:
            return done.returncode
        if stage.trains and not finished(stage, folder, config):
            print(f"time over in {stage.name}; give the same command again")
            return 0
        folder.mkdir(parents=True, exist_ok=True)
        if not stage.trains:
            (folder / "finished").touch()
    last = "distill/model" if planned[-1].name == "distill" else "model"
    print(f"done: {args.out / last}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
