from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.data.shards import ShardWriter, find_tiles
from train.data.tiles import check_apart, load_tiles
from train.errors import DataError
from wsisr.errors import UsageError


@pytest.fixture
def shard(tiles: Path, tmp_path: Path) -> Path:
    """One shard with its index, in a folder of its own."""
    with ShardWriter(tmp_path / "split" / "all") as writer:
        for tile in find_tiles(tiles / "train"):
            writer.add(tile.name, tile.read())
    return tmp_path / "split" / "all-0000.tar"


def test_an_index_that_was_cut_off_is_refused(shard: Path) -> None:
    index = shard.with_suffix(".csv")
    lines = index.read_text().splitlines(keepends=True)
    assert len(find_tiles(shard.parent)) == len(lines) - 1 == 6
    for text, reason in (
        ("".join(lines[:-1]), "lists 5 tiles, which is not what all-0000.tar holds"),
        (lines[0], "lists 0 tiles"),
        ("".join(lines[:-1]) + lines[-1][:-70], "line 7 is damaged"),
        ("".join(lines[1:]), "no index of all-0000.tar: it lacks the columns name, offset"),
        ("", "no index of all-0000.tar"),
    ):
        index.write_text(text)
        with pytest.raises(DataError, match=rf"all-0000\.csv.*{reason}"):
            find_tiles(shard.parent)


def test_a_tar_that_was_cut_off_or_is_gone_is_refused(shard: Path) -> None:
    (shard.parent / "all.patches.csv").write_text("name,patient,x,y,mpp,sharpness,sha256\n")
    assert len(find_tiles(shard.parent)) == 6
    Image.new("RGB", (8, 8)).save(shard.parent / "loose.png")
    shard.write_bytes(shard.read_bytes()[:-2000])
    with pytest.raises(DataError, match="one of the two was cut off"):
        find_tiles(shard.parent)
    shard.unlink()
    with pytest.raises(DataError, match=r"all-0000\.csv is the index of a shard that is not there"):
        find_tiles(shard.parent)
    shard.with_suffix(".csv").unlink()
    assert [tile.name for tile in find_tiles(shard.parent)] == ["loose.png"]


def test_a_tar_of_another_tool_needs_no_index(tiles: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "other.tar", "w") as tar:
        tar.add(tiles / "train", "./")
    loaded, loose = load_tiles(tmp_path), load_tiles(tiles / "train")
    assert np.array_equal(loaded.pixels, loose.pixels)
    assert loaded.slides == loose.slides == ("train0", "train1")


def test_a_shard_that_was_not_finished_is_removed(tmp_path: Path) -> None:
    def fail() -> None:
        with ShardWriter(tmp_path / "all") as writer:
            writer.add("slide/a.png", b"a")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not list(tmp_path.iterdir())


def test_an_image_that_is_too_large_is_unreadable_and_a_tile_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for i in range(101):
        Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / f"{i:03d}.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "050.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert len(load_tiles(tmp_path).names) == 100
    assert "050.png: skipped, unreadable (Image size (4096 pixels)" in caplog.text
    (tmp_path / "051.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"2 of 101 .*the last is 05[01]\.png"):
        load_tiles(tmp_path)
    assert "051.png: skipped, unreadable (no image that Pillow knows)" in caplog.text


def test_no_tiles_at_all_cannot_be_asked_for(tiles: Path) -> None:
    assert len(load_tiles(tiles / "train", limit=1).names) == 1
    with pytest.raises(UsageError, match="--limit 0: must be 1 or more"):
        load_tiles(tiles / "train", limit=0)


def test_a_slide_in_both_splits_is_refused(tmp_path: Path) -> None:
    def data(place: str, **splits: str) -> Path:
        for split, names in splits.items():
            for name in names.split():
                file = tmp_path / place / split / name
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8)).save(file)
        return tmp_path / place

    both = data("both", train="a/0.png b/0.png c/0.png", val="b/9.png c/x/9.png d/0.png")
    with pytest.raises(DataError, match=r"slide b \(and 1 more\) is in train/ and val/ of .*both"):
        check_apart(both)
    check_apart(data("apart", train="a/0.png b/0.png", val="d/0.png"))
    check_apart(data("flat", train="0.png 1.png", val="0.png 1.png"))
