from __future__ import annotations

import pytest

from wsisr.progress import GLASS_COST, State, as_duration, as_size


def test_time_to_go_is_that_of_the_windows_with_tissue() -> None:
    # all of the glass and a tenth of the tissue: most is still to be done
    state = State(910, 1000, tissue_done=10, tissue_total=100, seconds=14.5)
    assert 10 + 900 * GLASS_COST == 55
    assert state.seconds_to_go == pytest.approx(14.5 * 90 / 55)
    glass_only = State(500, 1000, tissue_total=100, seconds=2)
    assert glass_only.seconds_to_go is None
    tiles = State(25, 100, pixels_done=2_000_000, seconds=4)
    assert tiles.seconds_to_go == pytest.approx(12)
    assert tiles.mpix_per_s == pytest.approx(0.5)
    assert State(0, 5).mpix_per_s == 0
    assert State(0, 5).seconds_to_go is None


def test_durations_and_sizes_are_written_for_people() -> None:
    said = [as_duration(seconds) for seconds in (4.2, 100, 5000, 11_100)]
    assert said == ["4 s", "2 min", "83 min", "3 h 5 min"]
    assert [as_size(3.81e6), as_size(1.234e9)] == ["3.81 MB", "1.23 GB"]
