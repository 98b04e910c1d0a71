"""Model folders that are made to do harm."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from tests.hostile.support import refusal_of
from wsisr.errors import ModelError
from wsisr.models import load_upscaler
from wsisr.models.catalogue import summarise
from wsisr.models.files import SHIPPED, read_card


def copy_of(folder: Path, **changes: Any) -> Path:
    """Copies the shipped model, with other contents of model.json."""
    shutil.copytree(SHIPPED["tiny"], folder)
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(card | changes))
    return folder


def without_base(folder: Path, base: str | None) -> Path:
    parts = {"restoration": "PlainNet", "controlnet": "LatentControlNet"}
    changes = {"parts": parts} | ({} if base is None else {"base": base})
    return copy_of(folder, **changes)


@pytest.mark.parametrize("base", ["someone/stable-diffusion", None])
def test_a_cards_base_is_not_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str | None
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    folder = without_base(tmp_path / "model", base)
    with pytest.raises(ModelError, match=r"not in the hub's cache; give base \S+ to download it"):
        load_upscaler(str(folder))


def test_a_base_that_the_user_names_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(name: str, *, local_files_only: bool, **options: Any) -> str:
        asked.append((name, local_files_only))
        raise OSError("no network here")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    folder = without_base(tmp_path / "model", "someone/else")
    with pytest.raises(ModelError, match="not to be fetched"):
        load_upscaler(str(folder), base="owner/name")
    with pytest.raises(ModelError, match="not in the hub's cache"):
        load_upscaler(str(folder))
    assert asked == [("owner/name", False), ("someone/else", True)]


@pytest.mark.parametrize("part", ["../secret", "/etc", "prompt/../..", "unknown"])
def test_parts_lie_in_the_folder(tmp_path: Path, part: str) -> None:
    card = read_card(SHIPPED["tiny"])
    folder = copy_of(tmp_path / "model", parts={**card.parts, part: "SwinIR"})
    for action in (load_upscaler, summarise):
        with pytest.raises(ModelError, match="is no part of a model"):
            action(str(folder))


CARDS: list[dict[str, Any]] = [
    {"name": "x" * 100_000},
    {"name": {"a": 1}},
    {"scales": [1e308] * 3},
    {"scales": [4] * 100_000},
    {"scales": [-1]},
    {"scales": [0]},
    {"scales": [[[[]]]]},
    {"scales": {"a": 1}},
    {"parts": []},
    {"parts": {"restoration": ["PlainNet"]}},
    {"parts": {"restoration": "os.system"}},
    {"schedule": {"steps": 10**9}},
    {"schedule": {"steps": 1}},
    {"schedule": {"beta_start": -1}},
    {"schedule": {"beta_end": 1e300}},
    {"sampling": {"steps": 0}},
    {"sampling": {"joint": [0, 0]}},
    {"sampling": {"joint": [10**9, 1]}},
    {"sampling": {"joint": [64, 64]}},
    {"sampling": {"seed": -1}},
    {"sampling": {"strength": "a"}},
    {"sampling": {"fidelity": None}},
    {"settings_by_scale": {"4": []}},
    {"settings_by_scale": {"inf": {}}},
    {"settings_by_scale": {"nan": {}}},
    {"version": 10**30},
    {"version": [[]]},
    {"format": None},
    {"base": 5},
    {"base": "x" * 100_000},
]


@pytest.mark.parametrize("changes", CARDS, ids=lambda changes: json.dumps(changes)[:50])
def test_cards_beyond_bounds(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = copy_of(tmp_path / "model", **changes)
    assert "model" in refusal_of(lambda: load_upscaler(str(folder)))


TEXTS = [
    "[" * 100_000,
    '{"a":' * 100_000,
    "1e999",
    '{"format": NaN}',
    "9" * 10_000,
    "\ufeff",
    "",
    "null",
    "[" + "[]," * 5_000_000 + "0]",
    " " * (20 << 20),
]


@pytest.mark.parametrize("name", ["model.json", "restoration/config.json"])
@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_texts_beyond_bounds(tmp_path: Path, name: str, text: str) -> None:
    folder = copy_of(tmp_path / "model")
    (folder / name).write_text(text)
    assert "model" in refusal_of(lambda: load_upscaler(str(folder)))


CONFIGS: list[tuple[str, dict[str, Any]]] = [
    ("restoration", {"blocks": 10**9}),
    ("restoration", {"blocks": 10**6}),
    ("restoration", {"blocks": -1, "width": -64}),
    ("restoration", {"blocks": 1e300}),
    ("restoration", {"width": 0}),
    ("restoration", {"width": 10**12}),
    ("restoration", {"width": {"a": 1}}),
    ("vae", {"latent_channels": 0}),
    ("vae", {"decoder_block_out_channels": []}),
    ("vae", {"decoder_block_out_channels": [[[[[32]]]]]}),
    ("vae", {"num_decoder_blocks": [10**7] * 4}),
    ("vae", {"encoder_block_out_channels": [32] * 1000}),
    ("vae", {"act_fn": "no_such"}),
    ("vae", {"act_fn": None}),
    ("unet", {"norm_num_groups": 0}),
    ("unet", {"norm_num_groups": -3}),
    ("unet", {"attention_head_dim": 0}),
    ("unet", {"layers_per_block": 10**6}),
    ("unet", {"transformer_layers_per_block": 10**6}),
    ("unet", {"block_out_channels": [10**9] * 3}),
    ("unet", {"down_block_types": ["os.system"] * 3}),
    ("unet", {"down_block_types": [None] * 3}),
    ("controlnet", {"in_channels": 0}),
    ("controlnet", {"cross_attention_dim": -64}),
    ("controlnet", {"block_out_channels": "abc"}),
]


@pytest.mark.parametrize(("part", "changes"), CONFIGS, ids=str)
def test_networks_beyond_bounds(tmp_path: Path, part: str, changes: dict[str, Any]) -> None:
    folder = copy_of(tmp_path / "model")
    file = folder / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    assert part in refusal_of(lambda: load_upscaler(str(folder)))


def test_attention_windows_are_bounded(tmp_path: Path) -> None:
    folder = copy_of(tmp_path / "model", parts={"restoration": "SwinIR"})
    for window in (65536, 512, 17, -8, 0):
        config = {"depths": [6] * 8, "num_heads": [6] * 8, "window_size": window}
        (folder / "restoration" / "config.json").write_text(json.dumps(config))
        assert "restoration" in refusal_of(lambda: load_upscaler(str(folder)))


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"\xff" * 8 + b"{}", (2**40).to_bytes(8)])
def test_weights_that_are_none(tmp_path: Path, data: bytes) -> None:
    folder = copy_of(tmp_path / "model")
    file = next((folder / "restoration").glob("*.safetensors"))
    file.write_bytes(data)
    assert "restoration" in refusal_of(lambda: load_upscaler(str(folder)))


def test_a_readme_may_hold_anything(tmp_path: Path) -> None:
    folder = copy_of(tmp_path / "model")
    (folder / "README.md").write_bytes(b"\xff\xfe" * 4_000_000)
    card = summarise(str(folder)).card
    assert card is not None
    assert len(card) <= 1 << 20
