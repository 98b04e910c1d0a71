"""All losses together, their discriminator, and ST-LPIPS's network."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import wsisr.evaluation.nuclei
from train.config import build
from train.losses.adversary import PatchDiscriminator, feature_l1
from train.losses.perceptual import perceptual_distance
from train.losses.weighted import DISCRIMINATOR_LEAD, AdversarialLoss, ImageLoss
from wsisr.errors import ModelError, UsageError
from wsisr.evaluation.weights import store as weights

needs_network = pytest.mark.skipif(
    bool(weights.why_missing("st_lpips")), reason="WSISR_WEIGHTS holds no st_lpips"
)


@needs_network
def test_a_network_of_photographs_tells_dots_from_grain_and_leaves_a_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    soft = F.avg_pool2d(torch.rand(2, 3, 72, 72, generator=generator), 5, 1, 2)[..., 4:-4, 4:-4]
    grain, other = (0.06 * torch.randn(2, 1, 64, 64, generator=generator) for _ in range(2))
    dots = torch.zeros(1, 1, 64, 64)
    dots[:, :, ::4, ::4] = 1
    dots = (dots - dots.mean()) * (grain.std() / dots.std())
    scan = soft + grain
    assert float(perceptual_distance(scan, scan)) == 0
    elsewhere = float(perceptual_distance(soft + other, scan))
    assert float(perceptual_distance(soft + dots, scan)) > 1.2 * elsewhere
    # every second image is looked at
    first = float(perceptual_distance((soft + other)[:1], scan[:1]))
    assert elsewhere == pytest.approx(first, rel=1e-5)
    flat = torch.full((1, 3, 64, 64), 0.9, requires_grad=True)
    perceptual_distance(flat, scan[:1]).backward()
    assert flat.grad is not None
    assert bool(flat.grad.isfinite().all())
    assert float(flat.grad.abs().max()) > 0


@needs_network
def test_a_projected_discriminator_soon_tells_dots_from_grain() -> None:
    torch.manual_seed(0)
    adversarial = AdversarialLoss(
        ImageLoss(discriminator="projected", adversarial=0.1, features=0.0)
    )
    optimizer = torch.optim.AdamW(adversarial.discriminator.parameters(), lr=2e-3)
    dots = torch.zeros(1, 1, 64, 64)
    dots[:, :, ::4, ::4] = 0.2
    for _ in range(40):
        scans = 0.6 + 0.05 * torch.randn(2, 3, 64, 64)
        images = (scans.flip(2) + dots).requires_grad_()
        adversarial.losses(images, scans, torch.full_like(scans, 0.6), 4, DISCRIMINATOR_LEAD)[
            "loss"
        ].backward()
        assert images.grad is not None
        assert bool(images.grad.isfinite().all())
        loss = adversarial.discriminator_loss(adversarial.discriminator, DISCRIMINATOR_LEAD)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 1.0  # of who cannot tell them apart: 2


@needs_network
def test_a_projected_discriminator_sees_that_detail_does_not_fit_what_it_was_made_from() -> None:
    torch.manual_seed(0)
    adversarial = AdversarialLoss(
        ImageLoss(discriminator="projected", adversarial=0.1, features=0.0)
    )
    optimizer = torch.optim.AdamW(adversarial.discriminator.parameters(), lr=2e-3)
    for _ in range(60):
        # grain belongs where it is dark; alone, images of both kinds look the same
        dark = torch.rand(8, 1, 1, 2).gt(0.5).float().repeat_interleave(32, 3)
        dark = dark.expand(-1, 3, 64, -1)
        grain = 0.1 * torch.randn(8, 3, 64, 64)
        adversarial.losses(
            0.5 + grain * (1 - dark), 0.5 + grain * dark, 0.8 - 0.5 * dark, 4, DISCRIMINATOR_LEAD
        )
        loss = adversarial.discriminator_loss(adversarial.discriminator, DISCRIMINATOR_LEAD)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 1.0  # of who cannot tell them apart: 2


def test_a_discriminator_that_there_is_not_and_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(UsageError, match=r"loss\.features"):
        ImageLoss(discriminator="projected")
    with pytest.raises(UsageError, match=r"discriminator 'pixel': must be patch or projected"):
        build(ImageLoss, {"discriminator": "pixel"})


def test_that_the_network_is_missing_shows_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(weights.WEIGHTS_VARIABLE, str(tmp_path))
    AdversarialLoss(ImageLoss())
    with pytest.raises(ModelError, match="wsisr models fetch st_lpips"):
        AdversarialLoss(ImageLoss(weights_by_scale={4: {"perceptual": 0.5}}))
    with pytest.raises(ModelError, match="wsisr models fetch st_lpips"):
        AdversarialLoss(ImageLoss(discriminator="projected", features=0.0))


def test_that_nuclei_cannot_be_found_shows_before_the_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    AdversarialLoss(ImageLoss(nuclear=1.0))
    monkeypatch.delattr(wsisr.evaluation.nuclei, "ClassicalSegmenter")  # a face keeps its names
    monkeypatch.setitem(sys.modules, "wsisr.evaluation.nuclei.classical", None)
    AdversarialLoss(ImageLoss())
    with pytest.raises(UsageError, match=r"--set distill\.loss\.nuclear=0"):
        AdversarialLoss(ImageLoss(weights_by_scale={4: {"nuclear": 1.0}}))


def test_where_the_discriminator_is_not_heard_it_does_not_learn() -> None:
    torch.manual_seed(0)
    images, scans = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    for weight in (0.0, 0.01):
        adversarial = AdversarialLoss(ImageLoss(adversarial=weight, features=0.0))
        losses = adversarial.losses(images, scans, scans, 4, 0)
        assert bool(losses["adversarial"]) == bool(weight)
        assert adversarial.discriminator_loss(adversarial.discriminator, 0).requires_grad == bool(
            weight
        )


def test_the_generators_loss_leaves_the_discriminator_alone() -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(channels=6)
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    hr, condition = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64)
    early = ImageLoss(adversarial_from=10)(image, hr, condition, discriminator, 9)
    assert float(early["adversarial"]) == 0
    losses = ImageLoss(adversarial_from=10)(image, hr, condition, discriminator, 10)
    losses["loss"].backward()
    assert image.grad is not None
    assert all(p.grad is None and p.requires_grad for p in discriminator.parameters())
    own = discriminator.features(torch.rand(1, 6, 64, 64))
    assert float(feature_l1(own, own).detach()) == 0


def test_weights_of_the_loss_may_differ_by_scale() -> None:
    torch.manual_seed(0)
    image, hr, condition = torch.rand(3, 1, 3, 64, 64)
    adversarial = AdversarialLoss(
        build(
            ImageLoss, {"pixel": 2.0, "adversarial_from": 9, "weights_by_scale": {4: {"pixel": 5}}}
        )
    )
    two, four = (adversarial.losses(image, hr, condition, scale, 0) for scale in (2, 4))
    assert float(four["loss"] - two["loss"]) == pytest.approx(3 * float(two["l1"]), rel=1e-5)
    with pytest.raises(UsageError, match=r"by_scale\.8\.pixels: is no key .*; is pixel meant"):
        build(ImageLoss, {"weights_by_scale": {8: {"pixels": 1.0}}})
