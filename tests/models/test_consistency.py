from __future__ import annotations

import numpy as np
import pytest
import torch

from wsisr.models.consistency import Sampling, project, project_limited, resize
from wsisr.plan import target_size
from wsisr.resize import axis_weights


def maps(size: int, scale: float, start: int, tile: int) -> Sampling:
    found = axis_weights(start, tile, target_size(size, scale), scale, size)
    return Sampling(torch.from_numpy(found.up), torch.from_numpy(found.down))


@pytest.mark.parametrize(("scale", "levels"), [(2, 0.5), (3, 0.5), (4, 0.5), (8, 0.5), (2.5, 0.8)])
def test_the_projected_image_agrees_with_the_input(scale: float, levels: float) -> None:
    """Even on white noise, of which no slide has as much."""
    size, tile = 200, 128
    axis = maps(size, scale, 120, tile)
    rng = torch.Generator().manual_seed(0)
    truth = torch.rand(1, 3, tile, tile, generator=rng)
    lr = resize(truth, axis.down, axis.down)
    start = resize(lr, axis.up, axis.up) + 0.03 * torch.randn(1, 3, tile, tile, generator=rng)
    agreed = project(start, lr, axis, axis)
    whole = axis.down.any(1)
    error = (resize(agreed, axis.down, axis.down) - lr)[:, :, whole][..., whole]
    before = (resize(start, axis.down, axis.down) - lr)[:, :, whole][..., whole]
    assert float(error.abs().max()) < levels / 255
    assert float(before.abs().max()) > 3 * float(error.abs().max())


def test_every_fidelity_agrees() -> None:
    axis = maps(200, 4, 120, 128)
    rng = torch.Generator().manual_seed(1)
    restored = torch.rand(1, 3, 128, 128, generator=rng)
    detail = torch.rand(1, 3, 128, 128, generator=rng) - 0.5
    lr = torch.rand(1, 3, *(len(axis.down),) * 2, generator=rng)
    ends = [project(restored + f * detail, lr, axis, axis) for f in (0.0, 1.0)]
    half = project(restored + 0.5 * detail, lr, axis, axis)
    torch.testing.assert_close(half, (ends[0] + ends[1]) / 2, atol=1e-5, rtol=0)


def test_what_agrees_already_is_left_alone() -> None:
    axis = maps(200, 4, 120, 128)
    image = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(2))
    lr = resize(image, axis.down, axis.down)
    torch.testing.assert_close(project(image, lr, axis, axis), image, atol=1e-6, rtol=0)


def test_pixels_seen_in_part_do_not_pull() -> None:
    found = axis_weights(120, 128, 256, 4, 64)
    edges = np.arange(found.start, found.stop) * 4
    whole = (edges >= 120) & (edges + 4 <= 248)
    np.testing.assert_array_equal(found.down.any(1), whole)


@pytest.mark.parametrize("scale", [2, 4, 8, 2.5])
def test_a_limited_projection_agrees_too(scale: float) -> None:
    """On detail of 10 grey levels that is off by 10 more, within half a grey level."""
    axis = maps(200, scale, 120, 128)
    rng = torch.Generator().manual_seed(3)
    noisy = 0.3 + 0.4 * torch.rand(1, 3, *(len(axis.down),) * 2, generator=rng)
    lr = torch.nn.functional.avg_pool2d(noisy, 3, 1, 1, count_include_pad=False)
    detail = 0.04 * torch.randn(1, 3, 128, 128, generator=rng)
    agreed = project_limited(resize(lr, axis.up, axis.up) + detail - 0.04, lr, axis, axis)
    whole = axis.down.any(1)
    error = (resize(agreed, axis.down, axis.down) - lr)[:, :, whole][..., whole]
    assert float(error.abs().max()) < 0.5 / 255


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_a_limited_projection_does_not_ring_at_a_hard_edge(scale: int) -> None:
    """A blurred, pale image of an edge is brought into agreement, and overshoots little."""
    axis = maps(128 // scale, scale, 0, 128)
    half = len(axis.down) // 2
    lr = torch.full((1, 3, 2 * half, 2 * half), 0.3)
    lr[..., half:] = 0.7
    pale = 0.5 + 0.8 * (resize(lr, axis.up, axis.up).clamp(0.3, 0.7) - 0.5)
    overshoot = {
        bring: float(bring(pale, lr, axis, axis).max() - 0.7) / 0.4
        for bring in (project, project_limited)
    }
    assert overshoot[project] > 0.14
    assert overshoot[project_limited] < 0.12


def test_what_agrees_already_is_left_alone_by_a_limited_projection() -> None:
    axis = maps(200, 4, 120, 128)
    image = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(2))
    lr = resize(image, axis.down, axis.down)
    torch.testing.assert_close(project_limited(image, lr, axis, axis), image, atol=1e-6, rtol=0)


def test_every_fidelity_agrees_with_a_limited_projection() -> None:
    axis = maps(200, 4, 120, 128)
    rng = torch.Generator().manual_seed(4)
    noisy = 0.3 + 0.4 * torch.rand(1, 3, *(len(axis.down),) * 2, generator=rng)
    lr = torch.nn.functional.avg_pool2d(noisy, 3, 1, 1, count_include_pad=False)
    restored = project(resize(lr, axis.up, axis.up), lr, axis, axis)
    detail = 0.05 * torch.randn(1, 3, 128, 128, generator=rng)
    whole = axis.down.any(1)
    for fidelity in (0.0, 0.3, 0.7, 1.0):
        out = project_limited(restored + (1 - fidelity) * detail, lr, axis, axis)
        error = (resize(out, axis.down, axis.down) - lr)[:, :, whole][..., whole]
        assert float(error.abs().max()) < 0.5 / 255
