"""Configs of the smallest size, and how tests run the commands."""

from __future__ import annotations

import copy
import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
LOOP = {"iterations": 20, "learning_rate": 3e-3, "save_every": 20, "validate_every": 20}
PAIRS = {"batch": 2, "crop": 64, "scales": [4], "scale_weights": [1.0], "degradation": "area"}
CONFIG: dict[str, Any] = {
    "stage1": PAIRS
    | {
        "model": {"embed_dim": 16, "depths": [2], "num_heads": [2], "num_feat": 8},
        "loss": "mse",
        "loop": LOOP,
    },
    "autoencoder": {
        "model": {
            "encoder_block_out_channels": [8] * 4,
            "decoder_block_out_channels": [8] * 4,
            "num_encoder_blocks": [0, 1, 1, 1],
            "num_decoder_blocks": [1, 1, 1, 0],
        },
        "batch": 2,
        "crop": 64,
        "adversarial_from": 15,
        "loop": LOOP,
    },
    "latents": {"scales": [4], "scale_weights": [1.0]},
    "stage2": {
        "unet": {
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": [8, 16],
            "layers_per_block": 1,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
            "cross_attention_dim": 8,
            "attention_head_dim": 2,
            "norm_num_groups": 4,
            "use_linear_projection": True,
        },
        "batch": 8,
        "crop": 16,
        "held_out": 1,
        "loop": LOOP,
    },
    "export": {"sampling": {"steps": 2, "start_from": "condition", "start_timestep": 400}},
}


def config(*sections: str) -> dict[str, Any]:
    """A copy of some sections, of all where none is named."""
    return copy.deepcopy({name: CONFIG[name] for name in sections or CONFIG})


def write(file: Path, content: dict[str, Any]) -> Path:
    """A config file."""
    file.write_text(json.dumps(content))  # JSON is YAML
    return file


def launch(stage: str, arguments: Sequence[str]) -> int:
    """In place of `train.run.launch`: the stage in this process, which spares its start."""
    return main([stage, *arguments])


def command(stage: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A stage as a user starts it."""
    return subprocess.run(
        [sys.executable, "-m", "train", stage, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )


def log(folder: Path, name: str = "log") -> list[dict[str, str]]:
    """The lines of a CSV log."""
    with (folder / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))
