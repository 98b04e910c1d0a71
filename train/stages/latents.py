"""A bank of latent pairs for stage 2, encoded once: (z_HR, c_RM) of every training tile.

    python -m train.stages.latents --config train/configs/tiny.yaml --data tiles --out runs/bank

Stage 1 and the autoencoder do not change while stage 2 trains, and they cost more than the small
UNet itself; so each tile is degraded, restored and encoded once, at a scale and with a flip of
its own. Written in shards, so an interrupted run goes on where it stopped; several processes
(torchrun) share them out. The autoencoder, where it is trained here, is put beside them in vae/.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diffusers import AutoencoderTiny
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from train.data import (
    KINDS,
    agree,
    batch_rng,
    check_scales,
    degrade,
    to_tensor,
    upsample,
    write_atomic,
)
from train.errors import DataError, require
from train.loop import Run, run_stage
from wsisr.errors import ModelError
from wsisr.models.files import load_module, load_restoration
from wsisr.models.networks import PlainNet, Vae, channels_last, encode
from wsisr.models.published import load_base

SHARD = 32
"""Tiles; of 512 px, with 16 latent channels, 8 MB."""


@dataclass(frozen=True)
class BankConfig:
    """Section `latents` of a config.

    Attributes:
        restoration: folder of the trained stage 1; empty for none: the resized input itself, in
            agreement with the input, is the condition (the paper's ablation).
        vae: folder of the trained autoencoder.
        base: where the autoencoder is taken from instead (see `wsisr.models.published.load_base`).
        scales, scale_weights: one scale is drawn for each tile.
        degradation: see `train.data.degradation.degrade`.
        passes: how often each tile is encoded, each time anew degraded and flipped.
        seed: of the draws.
    """

    restoration: str = ""
    vae: str = ""
    base: str = ""
    scales: tuple[int, ...] = (4,)
    scale_weights: tuple[float, ...] = field(default=(1.0,))
    degradation: str = "scanner"
    passes: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        check_scales(self.scales, self.scale_weights)
        require(self.passes >= 1, f"passes {self.passes}: must be 1 or more")
        require(self.seed >= 0, f"seed {self.seed}: must be 0 or more")
        kinds = ", ".join(KINDS)
        require(self.degradation in KINDS, f"degradation {self.degradation!r}: not one of {kinds}")


@dataclass(frozen=True)
class Bank:
    """Latents of all tiles: clean and condition, each (n, C, h, w) float16."""

    clean: Tensor
    condition: Tensor

    def crops(self, rng: np.random.Generator, batch: int, side: int) -> tuple[Tensor, Tensor]:
        """Random crops of pairs, (batch, C, side, side) float32 each."""
        n, _, height, width = self.clean.shape
        pairs = []
        # cast one by one: a CPU's autocast cannot stack half-precision tensors
        for _ in range(batch):
            i = int(rng.integers(n))
            y, x = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
            cut = (i, slice(None), slice(y, y + side), slice(x, x + side))
            pairs.append((self.clean[cut].float(), self.condition[cut].float()))
        clean, condition = zip(*pairs, strict=True)
        return torch.stack(clean), torch.stack(condition)


def load_bank(folder: Path) -> Bank:
    """All shards of a bank.

    Raises:
        DataError: there are none, or one is damaged or of another kind than the first.
    """
    files = sorted(folder.glob("bank-*.safetensors"))
    if not files:
        raise DataError(f"{folder}: no bank-*.safetensors; run `python -m train.stages.latents`")
    shards: list[tuple[Tensor, Tensor]] = []
    for file in files:
        try:
            shard = load_file(file)
            shards.append((shard["clean"], shard["condition"]))
        except (SafetensorError, KeyError) as error:
            raise DataError(
                f"{file} is no shard of a bank ({error}); remove it and run "
                "`python -m train.stages.latents` again"
            ) from error
        if shards[-1][0].shape[1:] != shards[0][0].shape[1:]:
            raise DataError(
                f"{file}: its latents are not of the size of {files[0].name}'s; encode "
                "anew into another folder"
            )
    clean, condition = zip(*shards, strict=True)
    return Bank(torch.cat(clean), torch.cat(condition))


def no_restoration() -> PlainNet:
    """Stands where a model has no stage 1: a network that returns its input."""
    network = PlainNet(width=1, blocks=0)
    for value in network.parameters():
        nn.init.zeros_(value)
    return cast(PlainNet, network)


def load_vae(config: BankConfig) -> Vae:
    """The autoencoder, of the base or trained here.

    Raises:
        ModelError: it is missing or broken, or neither is named.
    """
    if config.base:
        return cast(Vae, load_base(config.base, ("vae",)).modules["vae"])
    if not config.vae:
        raise ModelError("section latents names neither vae nor base; set latents.vae")
    return cast(Vae, load_module(Path(config.vae), AutoencoderTiny))


def check_record(out: Path, record: dict[str, Any], rank: int = 0) -> None:
    """Write what a bank is made of to bank.json, unless it is there; all but the first process wait
    for it.

    Raises:
        DataError: the bank is made of something else.
    """
    file = out / "bank.json"
    while rank and not file.exists():  # torchrun ends those that wait for one that failed
        time.sleep(0.1)
    made = json.loads(file.read_text()) if file.exists() else None
    if made is None and not list(out.glob("bank-*.safetensors")):
        write_atomic(file, json.dumps(record, indent=1).encode())
    elif made != record:
        raise DataError(
            f"{out}: its latents are of other tiles, settings or networks; remove the folder or "
            "choose another --out"
        )


def digest(module: nn.Module) -> str:
    """SHA-256 of a network's weights."""
    found = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        found.update(name.encode() + value.float().cpu().numpy().tobytes())
    return found.hexdigest()


def write_bank(config: BankConfig, run: Run) -> None:
    """Write what is not written yet, and at the end an empty file `finished`.

    Raises:
        DataError: what is there is of other settings or networks.
        ModelError: see `load_vae`; or stage 1 is missing or broken.
    """
    began = time.monotonic()
    tiles = run.tiles("train")
    run.out.mkdir(parents=True, exist_ok=True)
    rank, processes, local = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
    )
    device = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    restoration = Path(config.restoration) if config.restoration else None
    stage1 = no_restoration() if restoration is None else load_restoration(restoration)
    vae = load_vae(config).eval()
    record = asdict(config) | {"tiles": len(tiles.pixels)}
    record |= {"restoration": digest(stage1), "vae": digest(vae)}
    check_record(run.out, json.loads(json.dumps(record)), rank)
    if rank == 0 and not config.base:
        cast(AutoencoderTiny, vae).save_pretrained(run.out / "vae")
    stage1, vae = stage1.eval().to(device), vae.to(device)
    channels_last(stage1)
    channels_last(vae)
    total = len(tiles.pixels) * config.passes
    order = np.random.default_rng(config.seed).permutation(total) % len(tiles.pixels)
    weights = np.asarray(config.scale_weights) / sum(config.scale_weights)
    shards = {run.out / f"bank-{i:04d}.safetensors": SHARD * i for i in range(-(-total // SHARD))}
    for number, (file, first) in enumerate(shards.items()):
        if file.exists() or number % processes != rank:
            continue
        if run.minutes is not None and time.monotonic() - began > 60 * run.minutes:
            print(f"time slice over at tile {first} of {total}")
            return
        clean, condition = [], []
        for item in range(first, min(first + SHARD, total)):
            rng = batch_rng(config.seed, item)
            scale = int(rng.choice(config.scales, p=weights))
            tile = np.rot90(tiles.pixels[order[item]], int(rng.integers(4)))
            hr = to_tensor(np.ascontiguousarray(tile[:, ::-1] if rng.integers(2) else tile)[None])
            lr = degrade(hr, scale, rng, config.degradation)
            with torch.inference_mode():
                resized = upsample(lr, scale).to(device, memory_format=torch.channels_last)
                restored = stage1(resized).clamp(0, 1)
                restored = agree(restored, lr).clamp(0, 1)
                condition.append(encode(vae, restored).half().cpu())
                clean.append(encode(vae, hr.to(device)).half().cpu())
        partial = file.with_suffix(".partial")
        save_file(
            {
                "clean": torch.cat(clean).contiguous(),
                "condition": torch.cat(condition).contiguous(),
            },
            partial,
        )
        partial.replace(file)
        print(f"{file.name}: {min(first + SHARD, total)} of {total}", flush=True)
    if all(file.exists() for file in shards):  # the slowest process finds them all
        (run.out / "finished").touch()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stage; returns its exit code."""
    return run_stage(__doc__, "latents", BankConfig, write_bank, arguments)


if __name__ == "__main__":
    sys.exit(main())
