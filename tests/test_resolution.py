from __future__ import annotations

import pytest
from hypothesis import strategies as st

from wsisr.resolution import default_scale, nominal_magnification

TILES = st.sampled_from([(64, 0), (64, 8), (64, 32), (128, 24), (512, 64), (512, 256)])
SIZES = st.integers(1, 3000)
SCALES = st.one_of(
    st.sampled_from([2.0, 3.0, 4.0, 8.0, 2.5, 1.5]), st.floats(1.001, 16, allow_nan=False)
)


@pytest.mark.parametrize(
    ("mpp", "magnification"),
    [
        (0.25, 40),
        (0.263, 40),
        (0.2528, 40),
        (0.499, 20),
        (1.0112, 10),
        (2.104, 5),
        (0.17, 60),
        (0.4, 25),
    ],
)
def test_nominal_magnification(mpp: float, magnification: float) -> None:
    assert nominal_magnification(mpp) == magnification


@pytest.mark.parametrize(
    ("mpp", "scale"), [(0.499, 2), (1.0112, 4), (2.104, 8), (1.052, 4), (0.7, 2.8)]
)
def test_default_scale_leads_to_40x(mpp: float, scale: float) -> None:
    assert default_scale(mpp) == pytest.approx(scale)
