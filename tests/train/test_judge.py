from __future__ import annotations

from pathlib import Path

import pytest

from train.data.tiles import load_tiles
from train.judge import judge_model
from wsisr.errors import UsageError


@pytest.mark.parametrize("count", [0, -1])
def test_no_tiles_to_judge_by_is_refused(tiles: Path, count: int) -> None:
    with pytest.raises(UsageError, match=f"judged {count}: must be 1 or more"):
        judge_model(None, load_tiles(tiles / "val"), [4], count)
