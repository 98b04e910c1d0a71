from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.train import small
from train.data import load_tiles
from train.errors import DataError
from train.pack import main, pack, recode
from train.shards import find_tiles
from wsisr.errors import UsageError


def size(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def test_a_pack_trains_as_its_folder_does(tiles: Path, tmp_path: Path) -> None:
    out = tmp_path / "pack"
    assert main(["--data", str(tiles), "--out", str(out), "--quality", "90"]) == 0
    facts = json.loads((out / "pack.json").read_text())
    assert facts["tiles"] == {"train": 6, "val": 2}
    assert facts["left_out"] == {"no_room": 0, "unreadable": 0}
    before, after = load_tiles(tiles / "train").pixels, load_tiles(out / "train").pixels
    error = np.mean((np.asarray(before, float) - np.asarray(after, float)) ** 2, (1, 2, 3))
    psnr = 10 * np.log10(255**2 / error)
    assert facts["psnr"] == pytest.approx(psnr.mean(), abs=0.02)
    assert facts["psnr_worst"] == pytest.approx(psnr.min(), abs=0.02)
    assert np.array_equal(load_tiles(tiles / "val").pixels, load_tiles(out / "val").pixels)
    file = small.write(tmp_path / "small.yaml", small.config("stage1"))
    arguments = ["--config", file, "--data", out, "--out", tmp_path / "run"]
    arguments += ["--set", "loop.iterations=2"]
    assert small.launch("stage1", list(map(str, arguments))) == 0


def test_what_does_not_fit_is_left_out_the_same_each_time(tiles: Path, tmp_path: Path) -> None:
    everything = pack(tiles, tmp_path / "all", codec="keep")
    limit = 0.1 + everything["bytes"] / 1e6 * 0.7
    for name in ("a", "b"):
        facts = pack(tiles, tmp_path / name, limit, codec="keep")
        # what is kept back is for the ends of many tars
        assert limit * 1e6 - 150_000 < size(tmp_path / name) < limit * 1e6
    assert 0 < facts["tiles"]["train"] < 6
    assert facts["left_out"]["no_room"] == 6 - facts["tiles"]["train"]
    names = [[t.name for t in find_tiles(tmp_path / n / "train")] for n in ("a", "b")]
    assert names[0] == names[1]
    with pytest.raises(DataError, match="leave no room"):
        pack(tiles, tmp_path / "c", 0.11)


def test_unreadable_tiles_stop_a_pack(tiles: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
    (tmp_path / "train" / "a.png").write_bytes(b"no image")
    Image.new("RGB", (64, 64)).save(tmp_path / "val" / "b.png")
    with pytest.raises(DataError, match="1 of 1 training tiles are unreadable"):
        pack(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_and_a_strange_quality_are_refused(tiles: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not empty"):
        pack(tiles, tiles)
    with pytest.raises(UsageError, match="between 1 and 100"):
        pack(tiles, tmp_path / "out", quality=0)


def test_recoding_loses_less_at_higher_quality(tiles: Path) -> None:
    data = find_tiles(tiles / "train")[0].read()
    (low, worse), (high, better) = (recode(data, "webp", q) for q in (50, 95))
    assert len(low) < len(high)
    assert worse < better
