from __future__ import annotations

import pytest

from wsisr.resolution import completed, default_scale, nominal_magnification


@pytest.mark.parametrize(
    ("mpp", "magnification"),
    [
        (0.25, 40),
        (0.263018, 40),
        (0.2528, 40),
        (0.499, 20),
        (1.0112, 10),
        (2.104, 5),
        (0.17, 60),
        (0.3, 10 / 0.3),
    ],
)
def test_a_pixel_size_stands_for_an_objective(mpp: float, magnification: float) -> None:
    assert nominal_magnification(mpp) == magnification


def test_the_missing_one_follows_from_the_other() -> None:
    assert completed(None, None) == (None, None)
    assert completed(None, 20) == (0.5, 20)
    assert completed(0.263, None) == (0.263, 40)
    assert completed(0.263, 20) == (0.263, 20)


@pytest.mark.parametrize(
    ("mpp", "scale"), [(0.499, 2), (1.0112, 4), (2.104, 8), (1.052, 4), (0.7, 2.8)]
)
def test_default_scale_leads_to_40x(mpp: float, scale: float) -> None:
    assert default_scale(mpp) == pytest.approx(scale)
