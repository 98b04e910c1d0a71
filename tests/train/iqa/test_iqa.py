from __future__ import annotations

import csv
import dataclasses
import hashlib
import logging
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from train.iqa import clip_iqa
from train.iqa import dataset as iqa_dataset
from wsisr.errors import SlideError, UsageError
from wsisr.evaluation import weights
from wsisr.evaluation.measures.clip_iqa import clip_iqa as clip_iqa_score
from wsisr.evaluation.measures.clip_iqa import load_prompts, prompt_features
from wsisr.evaluation.networks.clip import END, Clip

SLIDES = ("duodenum-tubular-adenoma", "signet-ring-cell-carcinoma")


def build(data_dir: Path, out: Path, **options: int) -> list[iqa_dataset.Item]:
    settings = {"count": 7, "side": 128, "seed": 3, **options}
    return iqa_dataset.build(data_dir / "tiles" / "val", out, slides=SLIDES, **settings)


@pytest.fixture(scope="module")
def dataset(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("iqa")
    build(data_dir, folder)
    return folder


@pytest.mark.parametrize("kind", ["boxblur", "gaussian"])
def test_kernels_have_the_variance_that_the_score_says(kind: str) -> None:
    for step in iqa_dataset.STEPS[kind]:
        # as many levels as 8 bits give: a bright square whose own variance is taken off
        square = np.zeros((201, 201, 3), np.uint8)
        square[80:121, 80:121] = 255
        line = iqa_dataset.blur(square, kind, step)[..., 0].astype(float).sum(axis=0)
        x = np.arange(line.size) - 100
        found = (line * x**2).sum() / line.sum() - (41**2 - 1) / 12
        assert found == pytest.approx(iqa_dataset.psf_variance(step), rel=0.03, abs=0.1)


def test_one_scale_serves_both_kinds(dataset: Path) -> None:
    items = iqa_dataset.read_manifest(dataset)
    assert len(items) == 7 * (1 + 10 + 11)
    for kind in iqa_dataset.STEPS:
        scores = [item.score for item in iqa_dataset.of_kind(items, kind)]
        assert (max(scores), min(scores)) == (10.0, 0.0)
    order = sorted((item.psf_variance, -item.score) for item in items)
    assert [score for _, score in order] == sorted(score for _, score in order)
    first = next(item for item in items if item.kind == "sharp")
    tile = cv2.imread(str(dataset / first.file))
    assert tile.shape == (128, 128, 3)
    for item in items:
        assert hashlib.sha256((dataset / item.file).read_bytes()).hexdigest() == item.sha256


def test_a_cut_run_goes_on_to_the_same_set(data_dir: Path, dataset: Path, tmp_path: Path) -> None:
    build(data_dir, tmp_path)
    files = sorted(tmp_path.rglob("*.png"))
    for path in files[::3]:
        path.unlink()
    files[2].write_bytes(b"")  # renamed, but its content lost in a power cut
    kept = files[1].stat().st_mtime_ns
    (tmp_path / "manifest.csv").unlink()
    with pytest.raises(UsageError, match=r"finish python -m train iqa-dataset"):
        iqa_dataset.read_manifest(tmp_path)
    build(data_dir, tmp_path)
    assert files[1].stat().st_mtime_ns == kept
    for path in sorted(dataset.rglob("*.*")):
        assert (tmp_path / path.relative_to(dataset)).read_bytes() == path.read_bytes()
    with pytest.raises(UsageError, match="other tiles or settings"):
        build(data_dir, tmp_path, seed=4)
    other = [item.sha256 for item in build(data_dir, tmp_path / "other", seed=4)]
    assert other != [item.sha256 for item in iqa_dataset.read_manifest(dataset)]


def test_tiles_of_no_use_are_left_out_and_named(
    data_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiles = tmp_path / "tiles" / "slide"
    tiles.mkdir(parents=True)
    for tile in sorted((data_dir / "tiles" / "val").rglob("*.jpg"))[:2]:
        shutil.copy(tile, tiles)
    good = tile.read_bytes()
    (tiles / "cut.jpg").write_bytes(good[: len(good) // 2])
    (tiles / "text.jpg").write_text("no image")
    cv2.imwrite(str(tiles / "small.png"), np.full((64, 512, 3), 120, np.uint8))
    cv2.imwrite(str(tiles / "glass.png"), np.full((512, 512, 3), 240, np.uint8))
    with caplog.at_level(logging.WARNING):
        items = iqa_dataset.build(tmp_path / "tiles", tmp_path / "out", 6, 128, 1)
    sharp = [item for item in items if item.kind == "sharp"]
    assert {item.source for item in sharp} <= {f"slide/{p.name}" for p in tiles.glob("*_x*")}
    assert "left out" in caplog.text
    for path in tiles.glob("*_x*"):
        path.unlink()
    with pytest.raises(SlideError, match="none of 4 tiles"):
        iqa_dataset.build(tmp_path / "tiles", tmp_path / "none", 6, 128, 1)
    for name in ("cut.jpg", "text.jpg", "small.png", "glass.png"):
        assert name in caplog.text


def test_the_offline_stand_in_ranks_the_sets(dataset: Path) -> None:
    items = iqa_dataset.read_manifest(dataset)
    for kind in iqa_dataset.STEPS:
        part = iqa_dataset.of_kind(items, kind)
        assert iqa_dataset.sharpness_correlation(dataset, part) > 0.85


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = Clip(
        image_width=8, image_blocks=(1, 1), text_width=64, text_blocks=1, outputs=24,
        vocabulary=END + 1, places=50,
    )  # fmt: skip
    with torch.no_grad():
        model.logit_scale.fill_(3.0)
    path = tmp_path_factory.mktemp("clip") / "small.pt"
    torch.save({"state_dict": model.state_dict()}, path)
    return path


@pytest.fixture
def config() -> clip_iqa.Config:
    # untrained features hardly differ: a higher rate makes 20 iterations enough
    return clip_iqa.Config(iterations=20, learning_rate=0.1, batch=64, save_every=5)


def test_learnt_prompts_score_images_in_the_evaluation(
    dataset: Path,
    clip_file: Path,
    tmp_path: Path,
    config: clip_iqa.Config,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(weights.WEIGHTS_VARIABLE, str(tmp_path))
    entry = dataclasses.replace(weights.REGISTRY["clip_rn50"], files={"RN50.pt": None})
    monkeypatch.setitem(weights.REGISTRY, "clip_rn50", entry)
    (tmp_path / "clip_rn50").mkdir()
    shutil.copy(clip_file, tmp_path / "clip_rn50" / "RN50.pt")
    clip_path = weights.find_weights("clip_rn50")["RN50.pt"]
    for kind in iqa_dataset.STEPS:
        out = tmp_path / f"clip_iqa_{kind}" / "prompts.safetensors"
        figures = clip_iqa.train(dataset, kind, clip_path, out, config)
        assert figures is not None
        with out.with_suffix(".csv").open() as file:
            assert [row["iteration"] for row in csv.DictReader(file)] == ["20"]
        assert figures["last_loss"] < 0.95 * figures["first_loss"]
        prompts = load_prompts(out, weights.cached_sha256(clip_path))
        assert prompts.kind == kind
        assert prompts.context is not None
        assert prompts.context.shape == (2, 16, 64)
        clip = clip_iqa.load_clip(clip_path)
        with torch.inference_mode():
            made = prompt_features(clip, prompts.context)
        torch.testing.assert_close(made, prompts.text_features)
        items = iqa_dataset.of_kind(iqa_dataset.read_manifest(dataset), kind)
        features = clip_iqa.image_features(clip, dataset, items, weights.cached_sha256(clip_path))
        expected = clip_iqa.score(features, prompts.text_features, clip.logit_scale)
        image = clip_iqa.read_image(dataset / items[5].file)
        assert clip_iqa_score(image, kind) == pytest.approx(float(expected[5]), abs=1e-5)
    # prompts learnt anew take the pin of the old ones with them
    before = weights.cached_sha256(out)
    clip_iqa.train(dataset, kind, clip_path, out, dataclasses.replace(config, seed=1))
    assert (
        weights.cached_sha256(weights.find_weights(f"clip_iqa_{kind}")["prompts.safetensors"])
        != before
    )


def test_a_cut_training_goes_on_to_the_same_prompts(
    dataset: Path,
    clip_file: Path,
    tmp_path: Path,
    config: clip_iqa.Config,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    figures = clip_iqa.train(dataset, "gaussian", clip_file, whole, config)
    assert clip_iqa.train(dataset, "gaussian", clip_file, cut, config, minutes=0) is None
    assert not cut.exists()
    with pytest.raises(UsageError, match="of another set, CLIP or schedule"):
        clip_iqa.train(dataset, "boxblur", clip_file, cut, config)
    real = clip_iqa.prompt_features
    calls = iter(range(12))

    def dies(*args: object) -> torch.Tensor:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(clip_iqa, "prompt_features", dies)
    with pytest.raises(KeyboardInterrupt):
        clip_iqa.train(dataset, "gaussian", clip_file, cut, config)
    monkeypatch.setattr(clip_iqa, "prompt_features", real)
    assert clip_iqa.train(dataset, "gaussian", clip_file, cut, config) == figures
    one, other = (load_prompts(path) for path in (cut, whole))
    assert torch.equal(one.text_features, other.text_features)
    assert one.notes == other.notes
    assert cut.with_suffix(".csv").read_text() == whole.with_suffix(".csv").read_text()
    assert not cut.with_suffix(".state.pt").exists()


def test_a_changed_image_is_not_learnt_from(dataset: Path, clip_file: Path, tmp_path: Path) -> None:
    items = iqa_dataset.read_manifest(dataset)[:3]
    clip = clip_iqa.load_clip(clip_file)
    for item in items[:2]:
        (tmp_path / item.file).parent.mkdir(exist_ok=True)
        shutil.copy(dataset / item.file, tmp_path / item.file)
    clip_iqa.image_features(clip, tmp_path, items[:2], "digest")
    with pytest.raises(UsageError, match="missing or has changed"):
        clip_iqa.image_features(clip, tmp_path, items, "digest")
    swapped = [dataclasses.replace(items[0], sha256=items[1].sha256)]
    with pytest.raises(UsageError, match="missing or has changed"):
        clip_iqa.image_features(clip, tmp_path, swapped, "digest")


def test_whole_slides_or_tiles_are_held_out(dataset: Path) -> None:
    items = iqa_dataset.read_manifest(dataset)
    slides = {item.source.split("/")[0] for item in items}
    held = clip_iqa.split(items, 0.3, 0)
    judged = {item.source.split("/")[0] for item, out in zip(items, held, strict=True) if out}
    learnt = {item.source.split("/")[0] for item, out in zip(items, held, strict=True) if not out}
    assert slides == set(SLIDES)
    assert len(judged) == len(learnt) == 1
    assert judged | learnt == slides
    one = [item for item in items if item.source.startswith(min(slides))]
    held = clip_iqa.split(one, 0.3, 0)
    inside = {item.source for item, out in zip(one, held, strict=True) if out}
    outside = {item.source for item, out in zip(one, held, strict=True) if not out}
    assert inside
    assert outside
    assert not inside & outside
    with pytest.raises(UsageError, match="one tile"):
        clip_iqa.split([item for item in one if item.source == one[0].source], 0.3, 0)


def test_both_commands_name_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(weights.WEIGHTS_VARIABLE, str(tmp_path / "weights"))
    learning = ("--data", tmp_path, "--kind", "boxblur", "--out", tmp_path / "p.safetensors")
    clip = tmp_path / "RN50.pt"
    for stage, arguments, code, message in (
        (iqa_dataset, ("--tiles", tmp_path, "--out", tmp_path), 2, f"{tmp_path}: no .jpg"),
        (clip_iqa, learning, 1, "wsisr models fetch clip_rn50"),
        (clip_iqa, (*learning, "--clip", clip), 2, f"{clip} is no file"),
    ):
        assert stage.main(list(map(str, arguments))) == code
        assert message in capsys.readouterr().err.splitlines()[-1]
    clip.touch()
    assert clip_iqa.main(list(map(str, (*learning, "--clip", clip)))) == 2
    assert "finish python -m train iqa-dataset" in capsys.readouterr().err.splitlines()[-1]


def test_a_slide_that_is_not_there_is_named(data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no slide nowhere in it"):
        iqa_dataset.build(data_dir / "tiles" / "val", tmp_path, 1, 64, 0, ["nowhere"])
