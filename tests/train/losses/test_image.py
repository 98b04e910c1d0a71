"""Losses that need no network: they see amounts and outlines, not places."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from train.losses.image import (
    coarse_l1,
    contrast_l1,
    deviation_l1,
    grid_penalty,
    mesh_penalty,
    shapes_l1,
    spectrum_l1,
    spread_l1,
    statistics_l1,
)


def test_contrast_loss_sees_amount_not_place() -> None:
    grain = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.1 + 0.5
    other = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 0.1 + 0.5
    flat = torch.full_like(grain, 0.5)
    assert float(contrast_l1(grain, grain)) == 0
    assert float(contrast_l1(grain, other)) < 0.2 * float(contrast_l1(grain, flat))


def test_deviation_loss_sees_pale_nuclei_but_not_their_place_in_the_window() -> None:
    dark, moved, pale = (torch.full((1, 3, 64, 64), 0.8) for _ in range(3))
    dark[..., 4:12, 4:12], moved[..., 5:13, 5:13], pale[..., 4:12, 4:12] = 0.3, 0.3, 0.5
    assert float(deviation_l1(dark, dark)) == 0
    assert float(deviation_l1(moved, dark)) < 0.3 * float(deviation_l1(pale, dark))
    # a window without contrast has a gradient, too
    flat = torch.full((1, 3, 64, 64), 0.5, requires_grad=True)
    deviation_l1(flat, dark).backward()
    assert torch.isfinite(flat.grad).all()


def test_coarse_loss_sees_outlines_and_not_grain() -> None:
    image = torch.full((1, 3, 64, 64), 0.5)
    grained, moved = image.clone(), image.clone()
    grained[..., ::2] += 0.1
    grained[..., 1::2] -= 0.1
    moved[..., :32] += 0.1
    assert float(coarse_l1(grained, image)) < 1e-6
    assert float(coarse_l1(moved, image)) == pytest.approx(0.05, rel=1e-3)


def test_spectrum_loss_sees_direction_and_amount_but_not_place() -> None:
    generators = (torch.Generator().manual_seed(seed) for seed in (0, 1))
    grain, other = (torch.randn(8, 3, 128, 128, generator=g) * 0.1 + 0.5 for g in generators)
    rows, columns = torch.meshgrid(torch.arange(128), torch.arange(128), indexing="ij")
    hatched = grain + 0.05 * torch.sin((rows + columns) * 1.9)
    elsewhere = float(spectrum_l1(other, grain))
    assert float(spectrum_l1(grain, grain)) == 0
    assert elsewhere < 0.1
    assert float(spectrum_l1(hatched, grain)) > 0.01
    assert float(spectrum_l1((grain - 0.5) * 0.5 + 0.5, grain)) > 5 * elsewhere


def test_samples_may_differ_by_as_much_as_they_are_wrong() -> None:
    generator = torch.Generator().manual_seed(0)
    truth, guess = torch.randn(2, 4, 3, 64, 64, generator=generator)
    assert float(spread_l1(torch.cat((guess, guess)), 2)) == 0

    def score(spread: float) -> float:
        noise = torch.randn(2, 4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        samples = spread * noise.flatten(0, 1)
        error = (samples - truth.repeat(2, 1, 1, 1)).abs().mean()
        return float(error - spread_l1(samples, 2))

    scores = {spread: score(spread) for spread in (0.0, 0.5, 1.0, 1.5)}
    assert min(scores, key=scores.__getitem__) == 1.0
    # neighbours in the batch are other crops, whose difference says nothing
    assert float(spread_l1(torch.cat((guess, guess + 0.1)), 2)) == pytest.approx(0.05, rel=1e-3)
    assert float(spread_l1(truth, 1)) == 0


def test_statistics_see_how_sparse_detail_is_and_not_where() -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1, 2)]
    grain, other, sparse = (torch.randn(8, 1, 128, 128, generator=g) for g in generators)
    sparse = sparse * (sparse.abs() > 1.5)
    # all white and of one power: one spectrum
    images = [0.5 + 0.05 * (x / x.std()).expand(-1, 3, -1, -1) for x in (grain, other, sparse)]
    assert float(statistics_l1(images[0], images[0])) == 0
    elsewhere = float(statistics_l1(images[1], images[0]))
    assert float(statistics_l1(images[2], images[0])) > 5 * elsewhere
    soft = F.avg_pool2d(images[1], 3, 1, 1, count_include_pad=False)
    assert float(statistics_l1(soft, images[0])) > 5 * elsewhere
    flat = torch.full((2, 3, 64, 64), 0.9, requires_grad=True)
    statistics_l1(flat, flat.detach() * 0.5).backward()
    assert flat.grad is not None
    assert bool(flat.grad.isfinite().all())


def test_shapes_see_how_sparse_detail_is_and_little_else() -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1, 2)]
    grain, other, strong = (torch.randn(8, 1, 128, 128, generator=g) for g in generators)
    # the same places, some of them of thrice the contrast
    strong = strong * (1 + 2 * (strong.abs() > 2))
    images = [0.5 + 0.05 * (x / x.std()).expand(-1, 3, -1, -1) for x in (grain, other, strong)]
    assert float(shapes_l1(images[0], images[0])) == 0
    elsewhere = float(shapes_l1(images[1], images[0]))
    fainter = 0.5 + (images[1] - 0.5) * 0.7
    assert float(shapes_l1(fainter, images[0])) < 3 * elsewhere
    assert float(shapes_l1(images[2], images[0])) > 5 * elsewhere
    flat = torch.full((2, 3, 64, 64), 0.9, requires_grad=True)
    shapes_l1(flat, flat.detach() * 0.5).backward()
    assert flat.grad is not None
    assert bool(flat.grad.isfinite().all())


def test_a_grid_costs_and_what_the_scan_has_does_not() -> None:
    grain = torch.rand(4, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    gridded = grain.clone()
    gridded[:, :, ::8] += 0.5
    assert float(grid_penalty(grain, grain)) == float(grid_penalty(gridded, gridded)) == 0
    assert float(grid_penalty(grain * 0.5 + 0.2, grain)) < 1e-6
    assert float(grid_penalty(gridded, grain)) > 0.1


def test_a_mesh_on_one_place_costs_and_what_the_scan_has_does_not() -> None:
    generators = (torch.Generator().manual_seed(seed) for seed in (0, 1))
    scan, other = (0.5 + 0.05 * torch.randn(4, 3, 128, 128, generator=g) for g in generators)
    meshed, coarser = other.clone(), other.clone()
    wave = 0.1 * torch.sin(torch.arange(48) * torch.pi / 2)
    meshed[0, :, 40:88, 40:88] += wave
    coarser[0, :, 40:88, 40:88] += 0.1 * torch.sin(torch.arange(48) * torch.pi / 5)
    assert float(mesh_penalty(meshed, meshed)) == 0
    assert float(mesh_penalty(other, scan)) == float(mesh_penalty(coarser, scan)) == 0
    cost = float(mesh_penalty(meshed, scan))
    assert cost > 0.02
    assert float(mesh_penalty(meshed.mT, scan)) == pytest.approx(cost, rel=0.1)
    # glass has next to no power, of which a share means nothing
    glass = 0.9 + (meshed - 0.5) * 0.01
    assert float(mesh_penalty(glass, torch.full_like(glass, 0.9))) < 0.1 * cost
