"""Crops and batches of tiles, and tiles that cannot be read."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.train import small
from train.data.feed import batch_rng, set_batch_part
from train.data.pairs import PairConfig, pair_feed
from train.data.shards import ShardWriter, find_tiles
from train.data.tiles import ENLARGED, load_tiles, random_crops, to_tensor
from train.errors import DataError
from train.loop.command import Run
from train.loop.schedule import LoopConfig


def test_batches_are_functions_of_the_iteration(tiles: Path) -> None:
    loaded = load_tiles(tiles / "train")
    assert loaded.slides == ("train0", "train1")
    a = random_crops(loaded, batch_rng(0, 7), 4, 64)
    assert torch.equal(a, random_crops(loaded, batch_rng(0, 7), 4, 64))
    assert not torch.equal(a, random_crops(loaded, batch_rng(0, 8), 4, 64))
    assert not torch.equal(a, random_crops(loaded, batch_rng(0, 7, 1), 4, 64))


def test_processes_make_the_batches_that_would_be_made_without_them(tiles: Path) -> None:
    loaded = load_tiles(tiles / "train")
    scales, weights = (2, 4), (0.5, 0.5)
    loop = LoopConfig(accumulate=2)
    config = PairConfig(
        2, 32, scales, weights, sharpness=(0.0, 1.0), magnification=1.5, stain=1.2, loop=loop
    )
    plain, ahead = (pair_feed(config, loaded, workers) for workers in (0, 2))
    # in the order of the loop, then after a jump, as when a run is resumed
    for iteration in (3, 4, 9):
        for number in (2, 3):
            set_batch_part(number)
            pairs = zip(plain(iteration), ahead(iteration), strict=True)
            assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in pairs)
    set_batch_part(0)


def test_batches_are_made_in_full_precision(tiles: Path) -> None:
    # on a CPU the autocast of a step reaches what makes its batch
    loop = LoopConfig()
    config = PairConfig(8, 32, (2,), (1.0,), sharpness=(0.0, 1.0), dyes=0.5, loop=loop)
    feed = pair_feed(config, load_tiles(tiles / "train"), 0)
    low, high, _ = feed(0)
    with torch.autocast("cpu", torch.bfloat16):
        low_within, high_within, _ = feed(0)
    assert torch.equal(low, low_within)
    assert torch.equal(high, high_within)


def test_magnified_crops_are_reduced_tissue(tiles: Path) -> None:
    loaded = load_tiles(tiles / "train")
    # the tiles' mean colour stays, and half of the crops are those taken without
    crops = random_crops(loaded, batch_rng(0, 0), 64, 48, 1.3)
    assert crops.shape == (64, 3, 48, 48)
    mean = to_tensor(loaded.pixels[:]).mean((0, 2, 3))
    torch.testing.assert_close(crops.mean((0, 2, 3)), mean, atol=0.05, rtol=0)
    with pytest.raises(DataError, match="smaller than a crop of 256 px times 9"):
        random_crops(loaded, batch_rng(0, 0), 1, 256, 9)


def test_enlarged_crops_are_smooth(tiles: Path) -> None:
    loaded = load_tiles(tiles / "train")
    crops = random_crops(loaded, batch_rng(0, 0), 200, 32, enlargement=16)
    steps = crops.diff(dim=3).abs().mean((1, 2, 3))
    usual = random_crops(loaded, batch_rng(0, 0), 200, 32).diff(dim=3).abs().mean((1, 2, 3))
    smooth = float((steps < usual.min() / 2).float().mean())
    assert ENLARGED / 3 < smooth < ENLARGED * 1.5


def test_shards_hold_what_folders_hold_and_corrupt_tiles_stop(tiles: Path, tmp_path: Path) -> None:
    loose = load_tiles(tiles / "train")
    writer = ShardWriter(tmp_path / "train" / "all", limit=200_000)
    for tile in find_tiles(tiles / "train"):
        writer.add(tile.name, tile.read())
    writer.close()
    packed = load_tiles(tmp_path / "train")
    assert packed.names == loose.names
    assert np.array_equal(packed.pixels, loose.pixels)
    lazy = load_tiles(tmp_path / "train", memory=0)
    assert np.array_equal(np.stack(list(lazy.pixels)), loose.pixels)
    tile = find_tiles(tmp_path / "train")[3]
    with tile.file.open("r+b") as file:
        file.seek(tile.offset + 50)
        file.write(b"damage")
    with pytest.raises(DataError, match=r"1 of 6 tiles are unreadable, more than 1%"):
        load_tiles(tmp_path / "train")


def test_one_corrupt_tile_in_a_hundred_is_left_out_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "slide"
    place.mkdir()
    for i in range(101):
        Image.new("RGB", (8, 8), (i, i, i)).save(place / f"{i:03d}.png")
    (place / "050.png").write_bytes(b"no image")
    loaded = load_tiles(tmp_path)
    assert len(loaded.pixels) == len(loaded.names) == 100
    assert "slide/050.png" not in loaded.names
    assert "slide/050.png: skipped, unreadable" in caplog.text
    assert "1 of 101 tiles unreadable, left out" in caplog.text
    lazy = load_tiles(tmp_path, memory=0)
    assert lazy.pixels[50][0, 0, 0] == 51  # the next one stands in


def test_slides_to_learn_from_and_to_validate_on_are_apart(
    tiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiles, tmp_path / "data")
    shutil.copytree(tiles / "train" / "train0", tmp_path / "data" / "val" / "train0")
    config = small.config()
    config["plain"] = small.PAIRS | {"model": {"width": 8, "blocks": 1}}
    file = small.write(tmp_path / "small.yaml", config)
    for stage in ("stage1", "autoencoder", "plain"):
        arguments = ["--config", file, "--data", tmp_path / "data", "--out", tmp_path / stage]
        assert small.launch(stage, list(map(str, arguments))) == 1
        assert "slide train0 is in train/ and val/" in capsys.readouterr().err


def test_slides_are_chosen_by_name(tiles: Path) -> None:
    loaded = load_tiles(tiles / "train", slides=["train1"])
    assert loaded.slides == ("train1",)
    assert len(loaded.names) == 3
    run = Run(tiles, tiles / "out", slides=("val0",))
    learnt, validated = run.splits()
    assert learnt.slides == ("train0", "train1")
    assert validated.slides == ("val0",)
    with pytest.raises(DataError, match="no slide val9 in it; there are val0, val1"):
        load_tiles(tiles / "val", slides=["val9"])
