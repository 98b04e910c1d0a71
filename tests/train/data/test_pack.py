from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.train import small
from train.data.pack import main, pack, recode
from train.data.shards import ShardWriter, find_tiles
from train.data.tiles import load_tiles
from train.errors import DataError
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
    with pytest.raises(DataError, match="1 of 1 tiles are unreadable"):
        pack(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("split", ["train", "val"])
def test_tiles_that_keep_their_bytes_are_read_once(split: str, tmp_path: Path) -> None:
    for folder, count in (("train", 101), ("val", 101)):
        (tmp_path / folder).mkdir()
        for i in range(count):
            Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / folder / f"{i:03d}.png")
    (tmp_path / split / "050.png").write_bytes((tmp_path / split / "050.png").read_bytes()[:50])
    facts = pack(tmp_path, tmp_path / "out", codec="keep")
    assert facts["tiles"] == {"train": 101, "val": 101} | {split: 100}
    assert facts["left_out"] == {"no_room": 0, "unreadable": 1}
    (tmp_path / split / "051.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=rf"{split}: 2 of 101 tiles are unreadable"):
        pack(tmp_path, tmp_path / "again", codec="keep")


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("made", [True, False])
def test_a_pack_that_fails_is_one_line_and_leaves_nothing(
    failure: BaseException,
    made: bool,
    tiles: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    if made:
        out.mkdir()
    arguments = ["--data", str(tiles), "--out", str(out), "--codec", "keep"]

    def fail(self: ShardWriter, *_: object) -> None:
        if self.prefix.parent.name == "val":
            raise failure
        add(self, *_)

    add = ShardWriter.add
    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "add", fail)
        assert main(arguments) == (1 if isinstance(failure, OSError) else 130)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert ("No space left" if isinstance(failure, OSError) else "give the same command") in error
    assert out.exists() == made
    assert not list(out.rglob("*"))
    assert main(arguments) == 0


def test_a_folder_that_is_a_file_is_one_line(
    tiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "file"
    out.touch()
    assert main(["--data", str(tiles), "--out", str(out)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {out} cannot be written")


def test_a_folder_in_use_and_a_strange_quality_are_refused(tiles: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not empty"):
        pack(tiles, tiles)
    with pytest.raises(UsageError, match="between 1 and 100"):
        pack(tiles, tmp_path / "out", quality=0)
    for megabytes in (float("nan"), -1.0, 0.0):
        with pytest.raises(UsageError, match=r"--megabytes .*: must be above 0"):
            pack(tiles, tmp_path / "out", megabytes)
    with pytest.raises(UsageError, match="--seed -1: must be 0 or more"):
        pack(tiles, tmp_path / "out", seed=-1)


def test_recoding_loses_less_at_higher_quality(tiles: Path) -> None:
    data = find_tiles(tiles / "train")[0].read()
    (low, worse), (high, better) = (recode(data, "webp", q) for q in (50, 95))
    assert len(low) < len(high)
    assert worse < better
