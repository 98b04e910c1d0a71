from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from wsisr.engine.array import upscale_image
from wsisr.errors import ModelError, UsageError
from wsisr.models import WindowInput, from_pretrained, load_upscaler, run_stages
from wsisr.models.compilation import blocks_of
from wsisr.models.consistency import Sampling, resize
from wsisr.models.networks.plainnet import PlainNet
from wsisr.resize import axis_weights

TILE, SCALE, SIZE = 64, 4, 40
# the networks' sums alone; where the CPU is fast in bf16 that would be the default
ALONE: dict[str, Any] = {"consistency": "off", "color_fix": "none", "precision": "fp32"}


def window(seed: int = 0) -> WindowInput:
    """A window amid a slide, with low-resolution pixels of middling contrast."""
    found = axis_weights(48, TILE, SIZE * SCALE, SCALE, SIZE)
    up, down = torch.from_numpy(found.up), torch.from_numpy(found.down)
    lr = torch.rand(3, up.shape[1], up.shape[1], generator=torch.Generator().manual_seed(seed))
    axis = Sampling(up, down)
    return WindowInput(48, 48, 0.4 + 0.3 * lr, axis, axis)


def disagreement(image: torch.Tensor, given: WindowInput) -> float:
    """Root mean square of the reduced image against the input, grey levels."""
    whole = given.rows.down.any(1)
    reduced = resize(image, given.rows.down, given.columns.down)
    error = (reduced - given.lr)[..., whole, :][..., whole]
    return 255 * float(error.square().mean().sqrt())


@pytest.mark.parametrize("fidelity", [0.0, 1.0])
def test_half_precision_agrees_with_the_input_as_well(model_folder: Path, fidelity: float) -> None:
    """Networks may be coarse; the arithmetic of consistency and colour is single precision."""
    found = {}
    for precision in ("fp32", "bf16"):
        settings = {"precision": precision, "fidelity": fidelity}
        model = load_upscaler(str(model_folder), settings=settings)
        given = window()
        found[precision] = disagreement(model([given])[0], given)
    assert found["bf16"] < 1.2 * found["fp32"] + 0.01


def test_blocks_are_those_of_every_network_once(model_folder: Path) -> None:
    model = load_upscaler(str(model_folder))
    blocks = blocks_of(model)
    inner = {id(module) for block in blocks for module in block.modules()}
    assert len(inner) == sum(len(list(block.modules())) for block in blocks)
    own = sum(p.numel() for block in blocks for p in block.parameters())
    assert own > 0.8 * sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", ["bicubic", "network.pth"])
def test_what_has_no_blocks_is_not_compiled(tmp_path: Path, name: str) -> None:
    if name != "bicubic":
        (tmp_path / name).touch()
        name = str(tmp_path / name)
    with pytest.raises(UsageError, match="no blocks to compile"):
        load_upscaler(name, settings={"compile": True})


def test_a_machine_without_a_compiler_is_told(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise RuntimeError("no C++ compiler\nlong story")

    monkeypatch.setattr(torch, "compile", fail)
    with pytest.raises(ModelError, match=r"compile: .*no C\+\+ compiler.*leave the option out"):
        load_upscaler(str(model_folder), settings={"compile": True})


@pytest.mark.slow
def test_compiled_pixels_are_near_and_the_same_whatever_the_batch(model_folder: Path) -> None:
    rng = np.random.default_rng(0)
    lr = rng.integers(90, 240, (50, 60, 3), np.uint8)
    options = {"tile": 64, "overlap": 16}
    threads = torch.get_num_threads()
    eager = upscale_image(lr, 4, model=str(model_folder), **options)
    found = []
    try:
        for count in (1, 2):
            # the number of windows computed beside each other on a CPU
            torch.set_num_threads(count)
            settings = {"compile": True}
            model = load_upscaler(str(model_folder), settings=settings)
            found += [upscale_image(lr, 4, model=model, **options) for _ in range(2)]
    finally:
        torch.set_num_threads(threads)
    for each in found[1:]:
        np.testing.assert_array_equal(each, found[0])
    assert np.abs(found[0].astype(int) - eager).max() <= 1


def with_detail(folder: Path) -> tuple[PlainNet, PlainNet]:
    """Let a model's stage 1 be a PlainNet: with a layer of detail; the same that has the detail in
    its image."""
    torch.manual_seed(1)
    net: PlainNet = PlainNet(width=8, blocks=1, detail=True)
    for layer in (net.last, net.last_detail):
        assert layer is not None
        nn.init.normal_(layer.weight, std=0.02)
    merged: PlainNet = PlainNet(width=8, blocks=1)
    merged.load_state_dict({key: net.state_dict()[key] for key in merged.state_dict()})
    for name in ("weight", "bias"):
        more = net.get_parameter(f"last_detail.{name}").detach()
        merged.get_parameter(f"last.{name}").data.add_(more)
    card = json.loads((folder / "model.json").read_text())
    card["parts"]["restoration"] = "PlainNet"
    (folder / "model.json").write_text(json.dumps(card))
    return net, merged


def test_stage_2_starts_from_the_image_with_its_detail(model_folder: Path) -> None:
    net, merged = with_detail(model_folder)
    given = [window(), window(1)]

    def run(stage1: PlainNet, fidelity: float) -> torch.Tensor:
        stage1.save_pretrained(model_folder / "restoration")
        settings = {**ALONE, "fidelity": fidelity}
        return from_pretrained(model_folder, settings=settings)(given)

    with torch.inference_mode():
        image = net(torch.stack([each.resized() for each in given]))
    assert float(image.min()) > 0
    assert float(image.max()) < 1
    torch.testing.assert_close(run(net, 1), image, rtol=0, atol=1e-5)
    assert float((run(merged, 1) - image).abs().max()) > 0.01
    torch.testing.assert_close(run(net, 0), run(merged, 0), rtol=0, atol=1e-5)


def test_the_path_is_differentiable_and_the_same_with_gradients(model_folder: Path) -> None:
    net, _ = with_detail(model_folder)
    net.save_pretrained(model_folder / "restoration")
    given = [window(), window(1)]
    model = from_pretrained(model_folder, settings={"precision": "fp32"})
    expected = model(given)
    model.requires_grad_(True)
    resized = torch.stack([each.resized() for each in given])
    agree, noise = model._agreement(given), model._noise_field(given, 0)
    for detach in (False, True):
        model.zero_grad()
        restored, images = run_stages(
            model.restoration, model.second, model.settings, resized, agree, [noise], detach=detach
        )
        image = next(images)
        torch.testing.assert_close(image.detach(), expected, rtol=0, atol=1e-5)
        image.square().mean().backward()
        stage1 = model.restoration
        assert stage1.last_detail.weight.grad is not None
        # the finished image has a say in what is restored only where nothing is detached
        assert (stage1.last.weight.grad is None) == detach
        assert restored.requires_grad


def test_repeats_are_samples_one_batch_behind_the_other(model_folder: Path) -> None:
    model = from_pretrained(model_folder, settings={"precision": "fp32"})
    resized = torch.stack([window(seed).resized() for seed in (0, 1)])
    noise = torch.randn(2, 4, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def run(field: torch.Tensor, repeats: int) -> torch.Tensor:
        noises = [lambda step, _: field[step]]
        with torch.inference_mode():
            _, images = run_stages(
                model.restoration,
                model.second,
                model.settings,
                resized,
                None,
                noises,
                repeats=repeats,
            )
            return next(images)

    expected = torch.cat([run(noise[:, :2], 1), run(noise[:, 2:], 1)])
    torch.testing.assert_close(run(noise, 2), expected, rtol=0, atol=1e-5)
