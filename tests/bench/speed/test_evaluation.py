from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from bench.speed import evaluation
from bench.speed.__main__ import main
from wsisr.evaluation.pairing import FolderPairs, read_image
from wsisr.slides import open_slide

FAST = ("psnr", "nuclei_recall", "lr_rmse")
pytestmark = pytest.mark.usefixtures("no_weights")


@pytest.fixture(scope="module")
def nuclear(data_dir: Path) -> list[Path]:
    """Real tiles full of nuclei."""
    return sorted((data_dir / "tiles" / "test" / "eosinophilic-esophagitis").glob("*.png"))[:3]


@pytest.fixture(scope="module")
def crops(nuclear: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crops")
    for path in nuclear:
        cv2.imwrite(str(folder / path.name), read_image(path)[:200, :200, ::-1])
    return folder


def test_speed_split_and_texture_of_small_tiles(crops: Path, tmp_path: Path) -> None:
    out = tmp_path / "e.json"
    arguments = ["--tiles", str(crops), "--parts", "speed,split,texture", "--rounds", "1"]
    assert main(["evaluation", *arguments, "--json", str(out)]) == 0
    figures = json.loads(out.read_text())
    assert all(value > 0 for value in figures.values())
    # scikit-image's matrices are made one nucleus at a time: no machine makes that the faster way
    assert figures["glcm_vs_skimage"] > 3
    steps = {name.removeprefix("ms_per_mpix ") for name in figures if "ms_per_mpix" in name}
    assert steps == {"(pixels)", "(nuclei found)", *evaluation.offline()}


def test_sr_tiles_lie_between_bicubic_and_the_scan(crops: Path, tmp_path: Path) -> None:
    pairs = FolderPairs(*evaluation.make_tiles(sorted(crops.iterdir()), tmp_path), scale=4)
    images = pairs.load(pairs.locations[0])
    errors = [
        np.abs(image.astype(int) - images.hr.astype(int)).mean()
        for image in (images.sr, images.bicubic)
    ]
    assert errors[0] == pytest.approx(errors[1] / 2, rel=0.1)


def test_wrong_texture_is_no_fast_texture(
    nuclear: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.ascontiguousarray(read_image(nuclear[0])[:150, :150])
    right = evaluation.nuclear_features
    monkeypatch.setattr(
        evaluation, "nuclear_features", lambda *a: [values * 1.001 for values in right(*a)]
    )
    with pytest.raises(RuntimeError, match="differ"):
        evaluation.texture(image, 1)


def test_made_slides_are_evaluated_whole(nuclear: list[Path], tmp_path: Path) -> None:
    evaluation.make_slides(nuclear, tmp_path, 1024, 1536)
    with open_slide(tmp_path / "sr.tif") as sr, open_slide(tmp_path / "lr.tif") as lr:
        assert (sr.width, sr.height, len(sr.levels)) == (1024, 1536, 2)
        assert (lr.width, lr.height) == (256, 384)
        assert sr.mpp == pytest.approx(0.25, rel=1e-3)
    assert 50 < evaluation.peak_of_evaluation(tmp_path, FAST) < 20_000
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert summary["tiles"] == 6
    assert summary["alignment"]["residual_px"] < 0.5
    assert summary["methods"]["sr"]["psnr"] > summary["methods"]["bicubic"]["psnr"]


@pytest.mark.slow
def test_memory_is_measured_in_processes_of_their_own(nuclear: list[Path]) -> None:
    # small slides are registered at finer resolution, so only the bench's own sizes compare
    figures = evaluation.memory(nuclear, FAST, 1024, (1024, 2048))
    first, second = figures["rss_mb_1024_rows"], figures["rss_mb_2048_rows"]
    assert figures["rss_ratio_height"] == second / first
    assert all(50 < peak < 2000 for peak in (first, second))


def test_an_unknown_part_is_named(crops: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluation", "--tiles", str(crops), "--parts", "spede"]) == 2
    assert "--parts spede: choose from speed" in capsys.readouterr().err
