from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from bench.quality import run as quality
from bench.quality import sensitivity
from wsisr.evaluation.measures.pixels import Image
from wsisr.evaluation import weights


@pytest.fixture(autouse=True)
def without_weights(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Learned measures take ten times as long as all others together."""
    monkeypatch.setenv(weights.WEIGHTS_VARIABLE, str(tmp_path_factory.mktemp("none")))


@pytest.fixture
def folder(tiles: list[Image], tmp_path: Path) -> Path:
    for number, image in enumerate(tiles[:2]):
        cv2.imwrite(str(tmp_path / f"{number}.png"), image[:200, :200, ::-1])
    return tmp_path


def test_quality_table_of_bicubic_hr_and_ready_files(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    ready = tmp_path_factory.mktemp("ready")
    for path in sorted(folder.glob("*.png")):
        (ready / path.name).write_bytes(path.read_bytes())
    out = ready / "q.json"
    arguments = ["--tiles", str(folder), "--scales", "4,8", "--quiet", "--json", str(out)]
    assert quality.main([*arguments, "--methods", f"bicubic,hr,{ready}"]) == 0
    result = json.loads(out.read_text())
    assert set(result) >= {"methods", "not_run", "conventions"}
    assert result["methods"]["bicubic x4"]["hf_db"] < -5
    assert result["methods"]["bicubic x8"]["psnr"] < result["methods"]["bicubic x4"]["psnr"]
    assert result["methods"]["hr x4"]["psnr"] is None
    assert result["methods"]["hr x4"]["ssim"] == pytest.approx(1.0, abs=1e-12)
    assert result["methods"][f"{ready} x4"] == result["methods"]["hr x4"]
    assert "| bicubic x4 |" in capsys.readouterr().out


def test_a_missing_ready_tile_and_a_missing_folder_are_named(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path_factory.mktemp("empty")
    assert quality.main(["--tiles", str(folder), "--methods", str(empty), "--quiet"]) == 2
    assert "has no 0.png" in capsys.readouterr().err
    assert quality.main(["--tiles", str(folder / "no"), "--quiet"]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_limit_spreads_over_the_list(folder: Path) -> None:
    for number in range(2, 9):
        (folder / f"{number}.png").write_bytes(b"")
    assert [p.stem for p in quality.list_tiles(folder, 3)] == ["0", "3", "6"]


@pytest.mark.parametrize("limit", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_every_fault_is_noticed_and_the_scan_raises_no_alarm(data_dir: Path, limit: int) -> None:
    folder = data_dir / "tiles" / "test" / "eosinophilic-esophagitis"
    result = sensitivity.run(folder if limit == 2 else folder.parent, limit, progress=False)
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
