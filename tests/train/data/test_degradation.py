"""Degradations and variations of crops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from train.data.degradation import KINDS, agree, degrade, upsample
from train.data.variation import EOSIN, HAEMATOXYLIN, vary_dyes, vary_sharpness, vary_stain
from wsisr.evaluation.measures.stain import RGB_FROM_HED


def test_dyes_change_and_their_amounts_stay() -> None:
    generator = torch.Generator().manual_seed(0)
    amounts = torch.rand(60, 2, 8, 8, generator=generator)
    assert np.array_equal(RGB_FROM_HED[:2], (HAEMATOXYLIN, EOSIN))
    dyes = torch.tensor((HAEMATOXYLIN, EOSIN))
    dyes = dyes / dyes.norm(dim=1, keepdim=True)
    hr = (-torch.einsum("bkhw,kc->bchw", amounts, dyes)).exp()
    varied = vary_dyes(hr, np.random.default_rng(0), 0.5)
    kept = (varied == hr).flatten(1).all(1)
    assert 0.3 < float(kept.float().mean()) < 0.7
    for image, amount in zip(varied[~kept], amounts[~kept], strict=True):
        # two dyes explain the image, and they are dyes: of positive density, of length 1
        density = -image.clamp_min(1e-6).log().flatten(1)
        found = torch.linalg.lstsq(amount.flatten(1).T, density.T)
        assert float((amount.flatten(1).T @ found.solution - density.T).abs().max()) < 1e-3
        torch.testing.assert_close(found.solution.norm(dim=1), torch.ones(2), atol=1e-3, rtol=0)
        assert float(found.solution.min()) > -1e-3
    assert torch.equal(varied, vary_dyes(hr, np.random.default_rng(0), 0.5))
    assert torch.equal(hr, vary_dyes(hr, np.random.default_rng(0), 0.0))


def test_stain_varies_by_factors_of_optical_density() -> None:
    hr = torch.rand(200, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.05
    varied = vary_stain(hr, np.random.default_rng(0), 1.3)
    factors = varied.log() / hr.log()
    # one factor a channel: the same for all of its pixels, none for about half of the images
    torch.testing.assert_close(factors, factors.mean((2, 3), keepdim=True).expand_as(factors))
    logs = factors[..., 0, 0].log()
    left = (logs.abs() < 1e-4).all(1)
    assert 0.4 < float(left.float().mean()) < 0.6
    reach = math.log(1.3)
    assert reach < float(logs.abs().max()) <= reach * 4 / 3 + 1e-4
    assert float(varied.min()) >= 0
    assert float(varied.max()) <= 1


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_area_degradation_is_the_box_mean(scale: int) -> None:
    hr = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    lr = degrade(hr, scale, np.random.default_rng(0), "area")
    means = hr.view(3, 3, 64 // scale, scale, 64 // scale, scale).mean((3, 5))
    torch.testing.assert_close(lr, (means * 255).round() / 255)


def test_scanner_degradation_is_seeded_and_leaves_most_alone() -> None:
    hr = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    clean = degrade(hr, 4, np.random.default_rng(0), "area")
    rough = degrade(hr, 4, np.random.default_rng(5), "scanner")
    assert torch.equal(rough, degrade(hr, 4, np.random.default_rng(5), "scanner"))
    changed = (rough != clean).flatten(1).any(1).float().mean()
    assert 0.1 < float(changed) < 0.45


def test_agreement_is_that_of_inference() -> None:
    hr = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    lr = F.avg_pool2d(hr, 4)
    agreed = agree(upsample(lr, 4), lr)
    assert float((F.avg_pool2d(agreed, 4) - lr).abs().max()) < 0.5 / 255


def test_sharpness_varies_for_a_part_and_only_in_detail() -> None:
    hr = torch.rand(64, 3, 48, 40, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.4
    detail = (hr - F.avg_pool2d(hr, 5, 1, 2, count_include_pad=False)).std((1, 2, 3))
    for amounts, stronger in (((0.9, 1.1), True), ((-0.6, -0.4), False)):
        rng, other = np.random.default_rng(5), np.random.default_rng(5)
        varied = vary_sharpness(hr, rng, amounts)
        vary_sharpness(hr * 0, other, amounts)
        assert rng.random() == other.random()
        kept = torch.tensor([torch.equal(a, b) for a, b in zip(varied, hr, strict=True)])
        assert 20 < int(kept.sum()) < 44
        torch.testing.assert_close(varied.mean((1, 2, 3)), hr.mean((1, 2, 3)), atol=1e-3, rtol=0)
        own = (varied - F.avg_pool2d(varied, 5, 1, 2, count_include_pad=False)).std((1, 2, 3))
        ratio = (own / detail)[~kept]
        assert bool((ratio > 1.5).all()) if stronger else bool((ratio < 0.7).all())
    assert float(vary_sharpness(hr * 2 - 0.4, np.random.default_rng(5), (2.0, 3.0)).max()) == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_degradations_draw_the_same_numbers_whatever_the_content(kind: str) -> None:
    states = []
    for hr in (torch.zeros(5, 3, 64, 64), torch.rand(5, 3, 64, 64)):
        rng = np.random.default_rng(3)
        lr = degrade(hr, 4, rng, kind)
        assert lr.shape == (5, 3, 16, 16)
        assert torch.equal((lr * 255).round() / 255, lr)
        assert torch.equal(lr, degrade(hr, 4, np.random.default_rng(3), kind))
        states.append(rng.bit_generator.state)
    assert states[0] == states[1]
