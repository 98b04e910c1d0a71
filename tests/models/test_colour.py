from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsisr.models.colour import (
    WAVELET_HALO,
    adain_color_fix,
    wavelet_color_fix,
    wavelet_low_pass,
)


def image(seed: int, height: int = 96, width: int = 96) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed)).double()


def test_low_pass_is_the_a_trous_transform() -> None:
    """Against an independent computation: one 1-D kernel that is the product of all levels."""
    kernel = np.ones(1)
    for level in range(5):
        step = np.zeros(2 * 2**level + 1)
        step[[0, 2**level, -1]] = 0.25, 0.5, 0.25
        kernel = np.convolve(kernel, step)
    assert len(kernel) == 2 * WAVELET_HALO + 1
    x = image(0, 128, 128)[0, 0].numpy()
    rows = np.apply_along_axis(lambda line: np.convolve(line, kernel, "valid"), 0, x)
    expected = np.apply_along_axis(lambda line: np.convolve(line, kernel, "valid"), 1, rows)
    ours = wavelet_low_pass(image(0, 128, 128))[0, 0, 31:-31, 31:-31].numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-12)


@settings(deadline=None, max_examples=25)
@given(y=st.integers(0, 60), x=st.integers(0, 60))
def test_the_halo_is_exact(y: int, x: int) -> None:
    content, style = image(1, 192, 192), image(2, 192, 192)
    whole = wavelet_color_fix(content, style)
    part = (slice(None), slice(None), slice(y, y + 130), slice(x, x + 130))
    window = wavelet_color_fix(content[part], style[part])
    inner = slice(WAVELET_HALO, -WAVELET_HALO)
    torch.testing.assert_close(window[..., inner, inner], whole[part][..., inner, inner])


def test_the_halo_is_not_smaller() -> None:
    content = torch.zeros(1, 1, 127, 127).double()
    moved = content.clone()
    moved[..., 63, 63 + WAVELET_HALO] = 1
    assert wavelet_low_pass(moved)[0, 0, 63, 63] != wavelet_low_pass(content)[0, 0, 63, 63]


def test_colours_come_from_style_and_detail_from_content() -> None:
    content, style = image(3) * 0.2, torch.full((1, 3, 96, 96), 0.7).double()
    fixed = wavelet_color_fix(content, style)
    assert abs(float(fixed.mean()) - 0.7) < 1e-2
    fine = content - wavelet_low_pass(content)
    torch.testing.assert_close(fixed - wavelet_low_pass(fixed), fine, atol=2e-2, rtol=0)


def test_images_smaller_than_the_halo() -> None:
    for size in (1, 2, 9, 31):
        out = wavelet_color_fix(image(4, size, size), image(5, size, size))
        assert torch.isfinite(out).all()


def test_adain_takes_the_moments_of_style() -> None:
    fixed = adain_color_fix(image(6), image(7) * 0.3 + 0.5)
    torch.testing.assert_close(
        fixed.mean((2, 3)), (image(7) * 0.3 + 0.5).mean((2, 3)), atol=1e-9, rtol=0
    )
