from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.test_dualstage import window
from wsisr.errors import OptionError
from wsisr.models import from_pretrained
from wsisr.models.placement import WINDOW_BYTES, choose_placement, weight_bytes

GPU = torch.device("cuda", 1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_in_main_memory_make_the_same_pixels(model_folder: Path, precision: str) -> None:
    settings: dict[str, Any] = {"precision": precision}
    here = from_pretrained(model_folder, settings=settings, placement="device")
    there = from_pretrained(model_folder, settings=settings, placement="offload")
    windows = [window(seed) for seed in range(2)]
    assert torch.equal(here(windows), there(windows))
    seeds = (3, 4)
    pairs = zip(here.samples(windows, seeds), there.samples(windows, seeds), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    # between windows no weight is on the device
    assert {parameter.device.type for parameter in there.parameters()} == {"meta"}
    assert here.describe() == there.describe()


def test_a_gpu_that_is_too_small_is_said_aloud(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = from_pretrained(model_folder)
    need = weight_bytes(model, "bf16") + WINDOW_BYTES
    assert weight_bytes(model, "bf16") == 6 * sum(p.numel() for p in model.parameters())
    for free, expected in ((need, "device"), (need - 1, "offload")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 2 * free))
        with caplog.at_level(logging.WARNING):
            assert choose_placement(model, "bf16", GPU) == expected
        assert ("cuda:1: the model needs 1.6 GB" in caplog.text) == (expected == "offload")
    assert choose_placement(model, "bf16", torch.device("cpu")) == "device"


def test_weights_that_come_and_go_are_not_compiled(model_folder: Path) -> None:
    with pytest.raises(OptionError, match=r"leave <?compile>? out"):
        from_pretrained(model_folder, settings={"compile": True}, placement="offload")
