"""Encodes a bank of latent pairs for stage 2, once: (z_HR, c_RM) of every training tile.

    python -m train latents --config train/configs/tiny.yaml --data tiles --out runs/bank

Stage 1 and the autoencoder do not change while stage 2 trains, and they cost more than the small
UNet itself; so each tile is degraded, restored and encoded once, at a scale and with a flip of
its own. The bank is written in shards, so an interrupted run goes on where it stopped; several
processes (torchrun) share them out. The autoencoder, where it is trained here, is put beside
them in vae/.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diffusers import AutoencoderTiny
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from train.config import STRICT_KEYS, Count, CountOrZero, Integer, Number, Text
from train.data import (
    Degradation,
    TileSet,
    agree,
    batch_rng,
    check_scales,
    degrade,
    to_tensor,
    upsample,
)
from train.errors import DataError
from train.loop import Run, run_stage
from wsisr.errors import ModelError
from wsisr.files import write_atomic
from wsisr.models.files import load_module, load_restoration
from wsisr.models.networks import PlainNet, Vae, channels_last, encode
from wsisr.models.published import load_base

SHARD = 32
"""Tiles of one shard; of 512 px, with 16 latent channels, they take 8 MB."""


@dataclass(frozen=True, config=STRICT_KEYS)
class BankConfig:
    """Section `latents` of a config.

    Attributes:
        restoration: folder of the trained stage 1; empty for none: the resized input itself, in
            agreement with the input, is the condition (the paper's ablation).
        vae: folder of the trained autoencoder.
        base: where the autoencoder is taken from instead (see `wsisr.models.published.load_base`).
        scales: one is drawn for each tile, with probability `scale_weights`.
        scale_weights: one for each of the scales; they need not sum to one.
        degradation: see `train.data.degradation.degrade`.
        passes: how often each tile is encoded, each time anew degraded and flipped.
        seed: of the draws.
    """

    restoration: Text = ""
    vae: Text = ""
    base: Text = ""
    scales: tuple[Integer, ...] = (4,)
    scale_weights: tuple[Number, ...] = (1.0,)
    degradation: Degradation = "scanner"
    passes: Count = 1
    seed: CountOrZero = 0

    def __post_init__(self) -> None:
        check_scales(self.scales, self.scale_weights)


@plain_dataclass(frozen=True)
class Bank:
    """The latents of all tiles.

    Attributes:
        clean: of the high-resolution tiles, (n, C, h, w) float16.
        condition: of the restored ones, of the same shape.
    """

    clean: Tensor
    condition: Tensor

    def crops(self, rng: np.random.Generator, batch: int, side: int) -> tuple[Tensor, Tensor]:
        """Takes random crops of pairs, (batch, C, side, side) float32 each."""
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
    """Reads all shards of a bank.

    Raises:
        DataError: there are none, or one is damaged or of another kind than the first.
    """
    files = sorted(folder.glob("bank-*.safetensors"))
    if not files:
        raise DataError(f"{folder}: no bank-*.safetensors; run `python -m train latents`")
    shards: list[tuple[Tensor, Tensor]] = []
    for file in files:
        try:
            shard = load_file(file)
            shards.append((shard["clean"], shard["condition"]))
        except (SafetensorError, KeyError) as error:
            raise DataError(
                f"{file} is no shard of a bank ({error}); remove it and run "
                "`python -m train latents` again"
            ) from error
        if shards[-1][0].shape[1:] != shards[0][0].shape[1:]:
            raise DataError(
                f"{file}: its latents are not of the size of {files[0].name}'s; encode "
                "anew into another folder"
            )
    clean, condition = zip(*shards, strict=True)
    return Bank(torch.cat(clean), torch.cat(condition))


def no_restoration() -> PlainNet:
    """Makes a network that returns its input, where a model has no stage 1."""
    network = PlainNet(width=1, blocks=0)
    for value in network.parameters():
        nn.init.zeros_(value)
    return cast(PlainNet, network)


def load_vae(config: BankConfig) -> Vae:
    """Loads the autoencoder, of the base or trained here.

    Raises:
        ModelError: it is missing or broken, or neither is named.
    """
    if config.base:
        return cast(Vae, load_base(config.base, ("vae",)).modules["vae"])
    if not config.vae:
        raise ModelError("section latents names neither vae nor base; set latents.vae")
    return cast(Vae, load_module(Path(config.vae), AutoencoderTiny))


def check_record(out: Path, record: dict[str, Any], rank: int = 0) -> None:
    """Writes what a bank is made of to bank.json, unless it is there.

    All but the first process wait for the file.

    Args:
        out: folder of the bank.
        record: what the bank is made of.
        rank: number of this process.

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


def weights_sha256(module: nn.Module) -> str:
    """Gives the SHA-256 of a network's weights."""
    found = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        found.update(name.encode() + value.float().cpu().numpy().tobytes())
    return found.hexdigest()


@plain_dataclass(frozen=True)
class _Encoder:
    """The networks that make latents, on the device where they run."""

    stage1: nn.Module
    vae: Vae
    device: str

    def pair(
        self, config: BankConfig, tiles: TileSet, number: int, item: int
    ) -> tuple[Tensor, Tensor]:
        """Degrades, restores and encodes a tile, turned and flipped at random.

        Args:
            config: of the bank.
            tiles: of train/.
            number: of the tile among them.
            item: of the pair in the bank, which decides what is drawn.

        Returns:
            Clean and condition, (1, C, h, w) float16 on the CPU each.
        """
        rng = batch_rng(config.seed, item)
        weights = np.asarray(config.scale_weights) / sum(config.scale_weights)
        scale = int(rng.choice(config.scales, p=weights))
        tile = np.rot90(tiles.pixels[number], int(rng.integers(4)))
        hr = to_tensor(np.ascontiguousarray(tile[:, ::-1] if rng.integers(2) else tile)[None])
        lr = degrade(hr, scale, rng, config.degradation)
        with torch.inference_mode():
            resized = upsample(lr, scale).to(self.device, memory_format=torch.channels_last)
            restored = self.stage1(resized).clamp(0, 1)
            restored = agree(restored, lr).clamp(0, 1)
            condition = encode(self.vae, restored).half().cpu()
            clean = encode(self.vae, hr.to(self.device)).half().cpu()
        return clean, condition


def write_bank(config: BankConfig, run: Run) -> None:
    """Writes what is not written yet, and at the end an empty file `finished`.

    Args:
        config: what the bank is made of.
        run: data, folder and limits.

    Raises:
        DataError: what is there is of other settings or networks.
        ModelError: see `load_vae`; or stage 1 is missing or broken.
    """
    began = time.monotonic()
    tiles = run.tiles("train")
    run.out.mkdir(parents=True, exist_ok=True)
    rank, processes = (int(os.environ.get(*each)) for each in (("RANK", "0"), ("WORLD_SIZE", "1")))
    encoder = _prepare(config, run, len(tiles.pixels), rank)
    total = len(tiles.pixels) * config.passes
    order = np.random.default_rng(config.seed).permutation(total) % len(tiles.pixels)
    shards = {run.out / f"bank-{i:04d}.safetensors": SHARD * i for i in range(-(-total // SHARD))}
    for number, (file, first) in enumerate(shards.items()):
        if file.exists() or number % processes != rank:
            continue
        if run.minutes is not None and time.monotonic() - began > 60 * run.minutes:
            print(f"time slice over at tile {first} of {total}")
            return
        last = min(first + SHARD, total)
        pairs = [encoder.pair(config, tiles, order[item], item) for item in range(first, last)]
        _write_shard(file, pairs)
        print(f"{file.name}: {last} of {total}", flush=True)
    if all(file.exists() for file in shards):  # the slowest process finds them all
        (run.out / "finished").touch()


def _prepare(config: BankConfig, run: Run, tiles: int, rank: int) -> _Encoder:
    """Loads the networks and checks that the bank is made of them."""
    local = os.environ.get("LOCAL_RANK", "0")
    device = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    restoration = Path(config.restoration) if config.restoration else None
    stage1 = no_restoration() if restoration is None else load_restoration(restoration)
    vae = load_vae(config).eval()
    record = asdict(config) | {"tiles": tiles}
    record |= {"restoration": weights_sha256(stage1), "vae": weights_sha256(vae)}
    check_record(run.out, json.loads(json.dumps(record)), rank)
    if rank == 0 and not config.base:
        cast(AutoencoderTiny, vae).save_pretrained(run.out / "vae")
    stage1, vae = stage1.eval().to(device), vae.to(device)
    return _Encoder(channels_last(stage1), channels_last(vae), device)


def _write_shard(file: Path, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Writes latents so that a shard is either whole or not there."""
    clean, condition = (torch.cat(each).contiguous() for each in zip(*pairs, strict=True))
    partial = file.with_suffix(".partial")
    save_file({"clean": clean, "condition": condition}, partial)
    partial.replace(file)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the stage; returns its exit code."""
    return run_stage(__doc__, "latents", BankConfig, write_bank, arguments)
