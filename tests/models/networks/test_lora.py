"""Networks that are told the scale: what is trained is what is loaded, and costs nothing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.models.conftest import small_restoration, small_vae
from tests.models.test_scales import change
from wsisr.engine.array import upscale_image
from wsisr.errors import ModelError
from wsisr.models import from_pretrained
from wsisr.models.files.parts import load_state
from wsisr.models.networks.guided import GuidedAutoencoderTiny
from wsisr.models.networks.lora import LORA_SUFFIXES, LoraConv2d, adapt, fold_scale, select_scale
from wsisr.models.networks.plainnet import PlainNet

SCALES = [2, 4, 8]
RANK = 3


def networks() -> dict[str, nn.Module]:
    """One of each kind that is adapted, with and without biases, all layers doing something."""
    torch.manual_seed(0)
    plain: PlainNet = PlainNet(width=8, blocks=2, detail=True)
    nn.init.normal_(plain.last.weight, std=0.1)
    return {
        "plain": plain,
        "swinir": small_restoration(),
        "vae": GuidedAutoencoderTiny.of(small_vae()),
    }


def shake(module: nn.Module, seed: int = 0) -> None:
    """Changes as training could leave them."""
    generator = torch.Generator().manual_seed(seed)
    for name, values in module.named_parameters():
        if name.endswith(LORA_SUFFIXES):
            nn.init.normal_(values, std=0.1, generator=generator)


def run(module: nn.Module, image: Tensor) -> Tensor:
    with torch.no_grad():
        out = module(image)
    return out if isinstance(out, Tensor) else out.sample


@pytest.mark.parametrize("kind", ["plain", "swinir", "vae"])
def test_changes_start_without_effect_and_end_in_the_weights(kind: str) -> None:
    net = networks()[kind]
    bare = copy.deepcopy(net)
    image = torch.rand(1, 3, 64, 64)
    before = run(net, image)
    weights = dict(net.named_parameters())
    adapt(net, len(SCALES), RANK)
    count = sum(isinstance(m, LoraConv2d) for m in net.modules())
    assert count == sum(isinstance(m, nn.Conv2d) for m in bare.modules()) > 3
    assert all(dict(net.named_parameters())[name] is value for name, value in weights.items())
    for row in (None, 0, 2):
        select_scale(net, row)
        assert torch.equal(run(net, image), before)
    shake(net)
    results = []
    for row in (None, 0, 1, 2):
        select_scale(net, row)
        results.append(run(net, image))
        bare.load_state_dict(fold_scale(net.state_dict(), len(SCALES), row, "here"))
        torch.testing.assert_close(run(bare, image), results[-1], rtol=1e-4, atol=1e-5)
    assert torch.equal(results[0], before)
    for one, other in ((0, 1), (1, 2), (2, 3)):
        assert float((results[one] - results[other]).abs().max()) > 1e-3


@pytest.mark.parametrize("bias", [True, False])
def test_what_is_added_is_the_product_of_the_factors(bias: bool) -> None:
    conv = nn.Conv2d(3, 4, 3, bias=bias)
    net = nn.Sequential(conv)
    image = torch.rand(1, 3, 8, 8)
    before = conv(image)
    adapt(net, 2, 2)
    shake(net)
    select_scale(net, 1)
    adapted = cast(LoraConv2d, conv)
    change = adapted.lora_up[1] @ adapted.lora_down[1]
    assert torch.linalg.matrix_rank(change) == 2
    expected = before + nn.functional.conv2d(image, change.view(4, 3, 3, 3), padding=0)
    assert (adapted.lora_bias is not None) == bias
    if adapted.lora_bias is not None:
        expected += adapted.lora_bias[1].view(1, 4, 1, 1)
    torch.testing.assert_close(net(image), expected)


def test_no_rank_is_larger_than_its_convolution() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 3))
    adapt(net, 2, 8)
    state = net.state_dict()
    assert state["0.lora_down"].shape == (2, 3, 3)
    assert state["1.lora_down"].shape == (2, 2, 36)
    assert state["1.lora_up"].shape == (2, 2, 2)


def test_only_the_present_scale_learns_of_its_own() -> None:
    net = networks()["plain"]
    adapt(net, 3, RANK)
    select_scale(net, 1)
    net(torch.rand(1, 3, 16, 16)).square().mean().backward()
    grad = net.get_parameter("first.lora_up").grad
    assert grad is not None
    assert float(grad[1].abs().max()) > 0
    assert float(grad[[0, 2]].abs().max()) == 0
    assert net.get_submodule("first").weight.grad is not None


def test_what_a_file_has_is_kept_and_a_scale_without_can_learn() -> None:
    net = networks()["plain"]
    bare = copy.deepcopy(net)
    adapt(net, 3, RANK)
    shake(net)
    state = net.state_dict()
    for key, value in state.items():
        if key.endswith(LORA_SUFFIXES):
            value[2] = 0.0  # as written by hand, or zeroed to save space
    adapt(bare, 3, 1, state)  # of the rank of the file, not of this one
    again = bare.state_dict()
    assert again.keys() == state.keys()
    for key, value in state.items():
        rows = slice(0, 2) if key.endswith(LORA_SUFFIXES) else slice(None)
        assert torch.equal(again[key][rows], value[rows]), key
    image = torch.rand(1, 3, 16, 16)
    select_scale(bare, None)
    before = run(bare, image)
    select_scale(bare, 2)
    assert torch.equal(run(bare, image), before)
    bare(image).square().mean().backward()
    grad = bare.get_parameter("first.lora_up").grad
    assert grad is not None
    assert float(grad[2].abs().max()) > 0


def test_copies_keep_the_scale_and_half_precision_holds() -> None:
    net = networks()["plain"]
    adapt(net, 2, RANK)
    shake(net)
    select_scale(net, 1)
    again = copy.deepcopy(net).half()
    image = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(run(again, image.half()).float(), run(net, image), atol=0.01, rtol=0)
    select_scale(net, 0)  # the copy is another network
    assert float((run(again, image.half()).float() - run(net, image)).abs().max()) > 0.01


@pytest.fixture
def model(model_folder: Path) -> Path:
    """The small model for three scales, its stage 1 and autoencoder adapted."""
    change(model_folder, scales=SCALES)
    for part, net in (("restoration", small_restoration()), ("vae", small_vae())):
        adapt(net, len(SCALES), RANK)
        shake(net)
        net.save_pretrained(model_folder / part)
    return model_folder


def test_a_folder_is_loaded_for_the_nearest_scale(model: Path) -> None:
    lr = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    states = {name: load_state(model / name) for name in ("restoration", "vae")}
    for scale, row in ((None, None), (2, 0), (3.2, 1), (8, 2), (100, 2)):
        loaded = from_pretrained(model, scale=scale)
        assert loaded.second is not None
        for name, net in (("restoration", loaded.restoration), ("vae", loaded.second.vae)):
            wanted = fold_scale(states[name], len(SCALES), row, "")
            for key, value in net.state_dict().items():
                assert torch.equal(value, wanted[key]), (scale, name, key)
    made = upscale_image(lr, 4, model=str(model), window=128, overlap=32)
    for scale, same in ((4, True), (8, False), (None, False)):
        loaded = from_pretrained(model, scale=scale)
        expected = upscale_image(lr, 4, model=loaded, window=128, overlap=32)
        assert np.array_equal(made, expected) == same, scale


def spoil(folder: Path, key: str, value: Tensor) -> str:
    (file,) = folder.glob("*.safetensors")
    state = load_file(file)
    save_file({**state, key: value}, file)
    return str(folder)


@pytest.mark.parametrize("scale", [None, 4])
@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("conv_first.1.lora_down", (2, 3, 27)),  # scales
        ("conv_first.1.lora_down", (3, 3, 9)),  # inputs
        ("conv_first.1.lora_down", (3, 27)),
        ("conv_first.1.lora_up", (3, 8, 4)),  # rank
        ("conv_first.1.lora_up", (3, 9, 3)),  # channels
        ("conv_first.1.lora_up", None),
        ("conv_first.1.lora_bias", (3, 9)),
        ("conv_first.1.lora_bias", None),
        ("conv_first.7.lora_down", (3, 3, 27)),  # no such convolution
        ("norm.lora_bias", (3, 8)),
    ],
)
def test_changes_that_do_not_fit_are_refused(
    model: Path, key: str, shape: tuple[int, ...] | None, scale: float | None
) -> None:
    place = model / "restoration"
    (file,) = place.glob("*.safetensors")
    state = load_file(file)
    state.pop(key, None)
    if shape is not None:
        state[key] = torch.zeros(shape)
    save_file(state, file)
    name = key.rsplit(".", 1)[0]
    with pytest.raises(ModelError, match=f"{place}: what {name} has of .* 3 scales"):
        from_pretrained(model, scale=scale)
