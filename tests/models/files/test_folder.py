"""A model folder that could not be written whole is none."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.models.conftest import PARTS, small_restoration, small_unet, small_vae
from wsisr.errors import ModelError
from wsisr.models import ModelCard, from_pretrained, save_pretrained
from wsisr.models.networks.controlnet import LatentControlNet

CARD = ModelCard("again", PARTS, scales=(4,))


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """No file can grow over so many bytes, as on a disk that fills."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_leaves_no_mix_of_two_models(model_folder: Path) -> None:
    unet = small_unet()
    parts = {
        "restoration": small_restoration(),
        "vae": small_vae(),
        "unet": unet,
        "controlnet": LatentControlNet.of_unet(unet),
    }
    (weights,) = (model_folder / "restoration").glob("*.safetensors")
    old = weights.read_bytes()
    with small_files(100_000), pytest.raises(OSError, match="File too large"):
        save_pretrained(model_folder, CARD, parts, torch.zeros(1, 8))
    assert weights.read_bytes() != old
    with pytest.raises(ModelError, match=r"no model\.json in it; not a wsisr model folder"):
        from_pretrained(model_folder)
    save_pretrained(model_folder, CARD, parts, torch.zeros(1, 8))
    assert from_pretrained(model_folder).describe()["model"] == "again"
    assert sorted(f.name for f in model_folder.iterdir()) == sorted(
        [*PARTS, "model.json", "prompt"]
    )


def test_a_description_is_whole_or_not_there(model_folder: Path) -> None:
    with small_files(100), pytest.raises(OSError, match="File too large"):
        save_pretrained(model_folder, CARD, {})
    assert not [*model_folder.glob("model.json*")]


def test_a_file_in_the_place_of_a_part_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "vae").touch()
    with pytest.raises(FileExistsError):
        save_pretrained(tmp_path, CARD, {"vae": small_vae()})
    assert not (tmp_path / "model.json").exists()
