from __future__ import annotations

from pathlib import Path

import pytest

from bench.quality.sensitivity import measure
from bench.quality.tiles import list_tiles

pytestmark = pytest.mark.usefixtures("no_weights")


@pytest.mark.parametrize("limit", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_every_fault_is_noticed_and_the_scan_raises_no_alarm(data_dir: Path, limit: int) -> None:
    folder = data_dir / "tiles" / "test" / "eosinophilic-esophagitis"
    paths = list_tiles(folder if limit == 2 else folder.parent, limit=limit)
    result = measure(paths, show_progress=False)
    assert result.escaped == []
    assert "nuclei_recall" in result.caught_by["10 % of nuclei erased"]
    assert "nuclei_precision" in result.caught_by["10 % invented"]
    assert "hed_shift" in result.caught_by["stain shift"]
    assert "comb_db" in result.caught_by["8 px grid"]
    assert result.caught_by["4 px mesh on one place"] == ["mesh_share"]
    assert "lr_rmse" in result.caught_by["1 px shift"]
    assert "hf_db" in result.caught_by["bicubic x4"]
    # what the paper's texture measure cannot see, and why agreement is reported beside it
    assert result.methods["10 % invented"]["l1_texture"] < 1e-6
