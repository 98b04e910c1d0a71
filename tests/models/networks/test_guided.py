"""The autoencoder whose decoder adds to an image."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from torch import nn

from tests.models.conftest import small_vae
from wsisr.models import from_pretrained
from wsisr.models.networks.guided import FOLDS, GuidedAutoencoderTiny
from wsisr.models.networks.vae import decode, encode
from wsisr.models.pipeline import sample


def opened(vae: AutoencoderTiny) -> GuidedAutoencoderTiny:
    """With the outermost convolutions as training could leave them."""
    guided = GuidedAutoencoderTiny.of(vae)
    guided.decoder.layers[-1].load_state_dict(vae.decoder.layers[-1].state_dict())
    for guide in guided.decoder.guides:
        nn.init.normal_(guide.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    return guided


@torch.no_grad()
def test_until_it_is_trained_the_image_stays_as_it_is() -> None:
    torch.manual_seed(0)
    vae = small_vae()
    guided = GuidedAutoencoderTiny.of(vae)
    image = torch.rand(2, 3, 32, 48)
    latents = encode(vae, image)
    assert torch.equal(latents, encode(guided, image))
    torch.testing.assert_close(decode(guided, latents, image), image)
    assert float(decode(guided, latents).abs().max()) == 0


@torch.no_grad()
def test_a_decoder_may_look_without_adding() -> None:
    torch.manual_seed(0)
    vae = small_vae()
    added = opened(vae)
    looking = GuidedAutoencoderTiny.from_config(added.config, adds=False)
    looking.load_state_dict(added.state_dict())
    image = torch.rand(2, 3, 32, 48)
    latents = encode(vae, image)
    decoded = decode(looking, latents, image)
    torch.testing.assert_close(decoded + image, decode(added, latents, image))
    assert float((decoded - decode(vae, latents)).abs().max()) > 1e-3


@torch.no_grad()
def test_the_image_enters_at_two_resolutions_and_stays_in_its_place() -> None:
    torch.manual_seed(0)
    vae = small_vae()
    guided = opened(vae)
    assert [g.in_channels for g in guided.decoder.guides] == [3 * fold**2 for fold in FOLDS]
    image = torch.rand(1, 3, 96, 96)
    latents = encode(guided, image)
    torch.testing.assert_close(decode(guided, latents), decode(vae, latents))
    before = decode(guided, latents, image)
    # what is added depends on the image, too
    assert float((before - image - decode(guided, latents)).abs().max()) > 1e-3
    changed = image.clone()
    changed[..., 40:44, 40:44] = 0
    moved = decode(guided, latents, changed) - changed - (before - image)
    moved = moved.abs().amax((0, 1))
    assert float(moved[40:44, 40:44].max()) > 1e-4
    # one block of three convolutions at each of the two resolutions, and one behind each
    assert float(moved[:8].max()) < 1e-6
    assert float(moved[:, 88:].max()) < 1e-6


@torch.no_grad()
def test_a_model_folder_can_hold_one(model_folder: Path) -> None:
    guided = opened(small_vae())
    guided.save_pretrained(model_folder / "vae")
    file = model_folder / "model.json"
    card = json.loads(file.read_text())
    card["parts"]["vae"] = "GuidedAutoencoderTiny"
    file.write_text(json.dumps(card))
    model = from_pretrained(model_folder)
    assert model.second is not None
    vae = model.second.vae
    for key, value in guided.state_dict().items():
        assert torch.equal(vae.state_dict()[key], value), key
    # sampling adds to the image it starts from
    image = torch.rand(1, 3, 64, 64)
    condition = encode(vae, image)
    results = [
        sample(model.second, model.settings, beside, condition, lambda _, shape: torch.zeros(shape))
        for beside in (image, 1 - image)
    ]
    changes = [result - beside for result, beside in zip(results, (image, 1 - image), strict=True)]
    assert float((changes[0] - changes[1]).abs().max()) > 1e-3
