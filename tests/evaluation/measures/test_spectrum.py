from __future__ import annotations

import numpy as np
import pytest

from wsisr.errors import UsageError
from wsisr.evaluation import measure
from wsisr.evaluation.measures import spectrum
from wsisr.evaluation.measures.pixels import Image
from wsisr.resize import area_downsample, bicubic_upsample


def wave(cycles_per_pixel: float, amplitude: float, size: int = 256) -> Image:
    x = np.arange(size)
    line = 128 + amplitude * np.sin(2 * np.pi * cycles_per_pixel * x)
    return np.repeat(np.tile(np.rint(line), (size, 1))[:, :, None], 3, axis=2).astype(np.uint8)


def ratio(sr: Image, hr: Image, name: str) -> float:
    return measure(sr, hr, metrics=name)[name]


def comb_level(image: Image) -> float:
    return measure(image, metrics="comb_level_db")["comb_level_db"]


def test_halving_a_fine_wave_costs_six_decibels() -> None:
    assert ratio(wave(0.25, 50), wave(0.25, 100), "hf_db") == pytest.approx(-6.02, abs=0.02)
    assert ratio(wave(0.25, 100), wave(0.25, 50), "hf_db") == pytest.approx(6.02, abs=0.02)


def test_waves_outside_the_band_do_not_count() -> None:
    low = spectrum.band_energy(wave(0.05, 100))
    assert low < 1e-3 * spectrum.band_energy(wave(0.25, 100))


def test_band_energy_equals_a_full_transform(noise: Image) -> None:
    rows, columns = noise.shape[:2]
    plane = noise @ np.array([0.299, 0.587, 0.114])
    window = np.outer(*(np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in (rows, columns)))
    power = np.abs(np.fft.fft2((plane - plane.mean()) * window)) ** 2
    radius = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.fftfreq(columns)[None])
    expected = power[(radius >= 0.125) & (radius <= 0.5)].sum() / (rows * columns)
    assert spectrum.band_energy(noise) == pytest.approx(expected, rel=1e-5)
    odd = noise[:95, :127]
    flipped = np.ascontiguousarray(odd.transpose(1, 0, 2))
    assert spectrum.band_energy(odd) == pytest.approx(spectrum.band_energy(flipped), rel=1e-5)


def test_bicubic_lacks_what_the_low_resolution_cannot_hold(tiles: list[Image]) -> None:
    for hr in tiles:
        blurred = bicubic_upsample(area_downsample(hr, 4), 4)
        assert ratio(blurred, hr, "hf_db") < -5
        assert ratio(hr, hr, "hf_db") == 0.0
        assert ratio(hr, hr, "comb_db") == 0.0


@pytest.mark.parametrize("period", [8, 16, 32, 64])
def test_a_grid_of_any_period_stands_out(tiles: list[Image], period: int) -> None:
    for hr in tiles:
        grid = hr.astype(int)
        grid[::period] += 12
        grid[:, ::period] += 12
        marked = np.clip(grid, 0, 255).astype(np.uint8)
        assert ratio(marked, hr, "comb_db") > 4
        assert comb_level(marked) > comb_level(hr)


def test_a_mesh_on_one_place_is_counted_and_tissue_has_none(tiles: list[Image]) -> None:
    for hr in tiles:
        assert spectrum.mesh_share(hr) <= 0.004
        wave = np.tile((10.0, 0.0, -10.0, 0.0), 24)
        marked = hr.astype(float)
        marked[64:160, 96:192] += (wave[:, None] + wave)[..., None]
        rows, columns = (side // 32 for side in hr.shape[:2])
        share = spectrum.mesh_share(np.clip(marked, 0, 255).astype(np.uint8))
        # nine squares hold it; their own detail may hide it in some, and one may be the scan's
        assert 5 <= round(share * rows * columns) <= 10


@pytest.mark.parametrize(("period", "expected"), [(4, 1.0), (3, 0.0), (5.5, 0.0), (8, 0.0)])
def test_a_mesh_is_one_of_four_pixels(period: float, expected: float) -> None:
    assert spectrum.mesh_share(wave(1 / period, 20)) == expected


def test_flat_or_small_images_have_no_value() -> None:
    flat = np.full((64, 64, 3), 200, np.uint8)
    assert np.isnan(ratio(flat, flat, "hf_db"))
    assert np.isnan(ratio(flat[:16, :16], flat[:16, :16], "comb_db"))
    assert ratio(flat, flat, "comb_db") == 0.0
    assert spectrum.mesh_share(flat) == 0.0
    assert np.isnan(spectrum.mesh_share(flat[:16, :16]))
    with pytest.raises(UsageError, match="at least 2 px"):
        spectrum.comb_energies(flat, periods=(1,))
