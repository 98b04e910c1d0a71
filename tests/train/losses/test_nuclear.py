"""Losses that look at nuclei."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from train.losses.nuclear import (
    haematoxylin_density,
    nuclear_features_l1,
    to_uint8,
    unmatched_nuclei,
)
from wsisr.evaluation.measures.texture import nuclear_features
from wsisr.evaluation.nuclei.classical import ClassicalSegmenter


def nuclei(centres: list[tuple[int, int]], depth: float) -> torch.Tensor:
    """Nuclei of 14 px radius in cytoplasm, (1, 3, 128, 128)."""
    rows, columns = torch.meshgrid(torch.arange(128), torch.arange(128), indexing="ij")
    generator = torch.Generator().manual_seed(len(centres) + round(100 * depth))
    image = torch.tensor((0.93, 0.75, 0.86))[:, None, None].repeat(1, 128, 128)
    for y, x in centres:
        inside = ((rows - y) ** 2 + (columns - x) ** 2 < 14**2).float()
        image = image - inside * torch.tensor((0.6, 0.6, 0.35))[:, None, None] * depth
    return (image + 0.03 * torch.randn(1, 128, 128, generator=generator)).clamp(0, 1)[None]


def test_the_nuclear_loss_is_the_papers_metric_and_knows_the_scans_nuclei_alone() -> None:
    two = [(40, 40), (84, 90)]
    scan, pale, hidden = nuclei(two, 1.0), nuclei(two, 0.7), nuclei(two[:1], 1.0)
    invented = nuclei([*two, (100, 30)], 1.0)
    hr, sr = (
        np.ascontiguousarray((x[0] * 255).round().byte().permute(1, 2, 0).numpy())
        for x in (scan, pale)
    )
    labels = ClassicalSegmenter().segment(hr, 0.25)
    assert labels.max() == 2
    own, reference = (nuclear_features(x, labels)[0] for x in (sr, hr))
    expected = np.abs(own - reference).sum(1).mean()
    found = 255 * float(nuclear_features_l1(pale, scan))
    # plus the step between neighbours, which the paper counts with texture
    assert expected == pytest.approx(found, rel=0.02, abs=0.3)
    assert float(nuclear_features_l1(scan, scan)) == 0
    assert float(nuclear_features_l1(invented, scan)) < 0.2 * float(nuclear_features_l1(pale, scan))
    assert float(nuclear_features_l1(hidden, scan)) > float(nuclear_features_l1(pale, scan))
    glass = torch.full((2, 3, 128, 128), 0.93)
    assert float(nuclear_features_l1(glass, glass)) == 0
    flat = torch.full_like(scan, 0.5).requires_grad_()
    nuclear_features_l1(flat, scan).backward()
    assert flat.grad is not None
    assert bool(flat.grad.isfinite().all())
    assert float(flat.grad.abs().max()) > 0


def test_nuclei_without_a_match_cost_the_stain_that_makes_them() -> None:
    two = [(40, 40), (84, 90)]
    scan, pale = nuclei(two, 1.0), nuclei(two, 0.9)
    invented, lost = nuclei([*two, (100, 30)], 1.0), nuclei(two[:1], 1.0)
    assert float(unmatched_nuclei(scan, scan)) == 0
    assert float(unmatched_nuclei(pale, scan)) == 0  # a pale nucleus is there still
    assert float(unmatched_nuclei(invented, scan)) > 0.05
    assert float(unmatched_nuclei(lost, scan)) > 0.05
    both = torch.cat((invented, scan)), torch.cat((scan, scan))
    alone = float(unmatched_nuclei(invented, scan))
    assert float(unmatched_nuclei(*both)) == pytest.approx(alone / 2)
    glass = torch.full((2, 3, 128, 128), 0.93)
    assert float(unmatched_nuclei(glass, glass)) == 0

    # where there is nothing to find fault with, nothing is asked for; a step takes it away
    image = invented.clone().requires_grad_()
    unmatched_nuclei(image, scan).backward()
    assert image.grad is not None
    assert float(image.grad[..., 20:60, 20:60].abs().max()) == 0
    stepped = (invented - 100 * image.grad).clamp(0, 1)
    assert float(unmatched_nuclei(stepped, scan)) < 0.8 * alone


def test_densities_are_those_that_nuclei_are_found_by() -> None:
    segmenter, image = ClassicalSegmenter(), nuclei([(60, 60)], 1.0)
    expected = segmenter._density(to_uint8(image)[0], 0.25)
    found = haematoxylin_density(image, segmenter.blur_um / 0.25)[0].numpy()
    np.testing.assert_allclose(found[8:-8, 8:-8], expected[8:-8, 8:-8], atol=0.01)
