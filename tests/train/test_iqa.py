from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from train import clip_iqa, iqa_dataset
from wsisr.evaluation.clip_iqa import load_prompts, prompt_features
from wsisr.evaluation.networks.clip import END, Clip


def build(data_dir: Path, out: Path, **options: int) -> list[iqa_dataset.Item]:
    settings = {"count": 7, "side": 128, "seed": 3, **options}
    return iqa_dataset.build(data_dir / "tiles" / "val", out, **settings)


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


def test_a_cut_run_goes_on_to_the_same_set(data_dir: Path, dataset: Path, tmp_path: Path) -> None:
    build(data_dir, tmp_path)
    files = sorted(tmp_path.rglob("*.png"))
    for path in files[::3]:
        path.unlink()
    kept = files[1].stat().st_mtime_ns
    (tmp_path / "manifest.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"finish python -m train\.iqa_dataset"):
        iqa_dataset.read_manifest(tmp_path)
    build(data_dir, tmp_path)
    assert files[1].stat().st_mtime_ns == kept
    for path in sorted(dataset.rglob("*.*")):
        assert (tmp_path / path.relative_to(dataset)).read_bytes() == path.read_bytes()
    other = [item.file for item in build(data_dir, tmp_path / "other", seed=4)]
    assert other != [item.file for item in iqa_dataset.read_manifest(dataset)]


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


def test_prompts_are_learnt_and_read_back(dataset: Path, clip_file: Path, tmp_path: Path) -> None:
    config = clip_iqa.Config(iterations=60, learning_rate=0.1, batch=32, tokens=4)
    out = tmp_path / "deep" / "prompts.safetensors"
    figures = clip_iqa.train(dataset, "gaussian", clip_file, out, config)
    assert figures["last_loss"] < 0.9 * figures["first_loss"]
    assert len(list(dataset.glob("features-*.safetensors"))) == 1
    again = clip_iqa.train(dataset, "gaussian", clip_file, tmp_path / "again", config)
    assert again == figures
    digest = clip_iqa.weights.digest(clip_file)
    prompts = load_prompts(out, digest)
    assert prompts.kind == "gaussian"
    assert prompts.context is not None
    assert prompts.context.shape == (2, 4, 64)
    with torch.inference_mode():
        made = prompt_features(clip_iqa.load_clip(clip_file), prompts.context)
    torch.testing.assert_close(made, prompts.text_features)


def test_whole_tiles_are_held_out(dataset: Path) -> None:
    items = iqa_dataset.read_manifest(dataset)
    held = clip_iqa.split(items, 0.3, 0)
    inside = {item.source for item, out in zip(items, held, strict=True) if out}
    outside = {item.source for item, out in zip(items, held, strict=True) if not out}
    assert inside
    assert not inside & outside


def test_both_commands_name_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for stage, arguments in (
        (iqa_dataset, ("--tiles", tmp_path, "--out", tmp_path)),
        (clip_iqa, ("--data", tmp_path, "--kind", "boxblur", "--clip", "x", "--out", "y")),
    ):
        monkeypatch.setattr("sys.argv", ["train", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            stage.main()
        assert stopped.value.code == 2
        assert str(tmp_path) in capsys.readouterr().err.splitlines()[-1]
