from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from bench.quality import measure, table
from bench.quality.__main__ import main
from bench.quality.markdown import LAYOUTS
from bench.quality.measure import Setup, measure_plan
from bench.quality.methods import Method, Upscale, load_method
from bench.quality.plan import make_plan
from bench.quality.results import QualityTable
from bench.quality.rows import make_table
from bench.quality.tiles import DataSet
from wsisr.errors import UsageError
from wsisr.evaluation.measures import Image, available_metrics, measure_tile
from wsisr.evaluation.measures.sample import Sample, Scan
from wsisr.evaluation.pairing import read_image
from wsisr.resize import area_downsample, bicubic_upsample

pytestmark = pytest.mark.usefixtures("no_weights")
SMALL = ["--scales", "4", "--metrics", "psnr,hf_db,lr_rmse,lpips", "--quiet"]


@pytest.fixture(scope="module")
def folders(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two data sets of small real tiles: three slides of two tiles, and one tile alone."""
    root = tmp_path_factory.mktemp("data")
    for slide in sorted((data_dir / "tiles" / "test").iterdir())[:3]:
        for path in sorted(slide.glob("*.png"))[:2]:
            (root / "many" / slide.name).mkdir(parents=True, exist_ok=True)
            target = root / "many" / slide.name / path.name
            cv2.imwrite(str(target), read_image(path)[100:202, 100:204, ::-1])
    (root / "one").mkdir()
    cv2.imwrite(str(root / "one" / "a.png"), read_image(target)[:64, :64, ::-1])
    return root / "many", root / "one"


def measured(
    folder: Path, scales: list[int], methods: list[Method], only: list[str]
) -> QualityTable:
    plan = make_plan([DataSet("d", folder)], scales, methods, only=only)
    setup = Setup(show_progress=False)
    return make_table(plan, setup, measure_plan(plan, setup))


def cells(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_a_difference_has_the_interval_of_pairs(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ready = tmp_path / "ready" / "x4"
    for path in folders[0].rglob("*.png"):
        tile = read_image(path)[:100, :104]
        reduced = cv2.resize(tile, (26, 25), interpolation=cv2.INTER_AREA)
        made = cv2.resize(reduced, (104, 100), interpolation=cv2.INTER_LINEAR)
        target = ready / path.relative_to(folders[0]).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), made[..., ::-1])
    files = [tmp_path / "q.json", tmp_path / "q.csv"]
    arguments = ["--tiles", str(folders[0]), "--scales", "4", "--metrics", "psnr,hf_db", "--quiet"]
    arguments += ["--methods", f"bicubic,linear={tmp_path / 'ready'}", "--json", str(files[0])]
    arguments += ["--csv", str(files[1]), "--intervals", "--against"]
    assert main([*arguments, "bicubic"]) == 0
    printed = capsys.readouterr().out
    assert [line[0] for line in cells(printed)[2:]] == ["bicubic", "linear", "linear - bicubic"]
    assert "bootstrap over slides" in printed
    result = json.loads(files[0].read_text())
    values, ends = result["methods"], result["intervals"]
    for name in ("psnr", "hf_db"):
        difference = values["linear"][name] - values["bicubic"][name]
        assert values["linear - bicubic"][name] == pytest.approx(difference)
        low, high = ends["linear - bicubic"][name]
        assert low <= difference <= high
        # the tiles are hard or easy for both: pairs say more than two intervals beside each other
        assert high - low < 0.5 * min(
            ends[m][name][1] - ends[m][name][0] for m in values if "-" not in m
        )
    rows = list(csv.DictReader(files[1].open()))
    assert [row["tiles"] for row in rows if row["method"] == "linear - bicubic"] == ["6", "6"]
    assert main([*arguments, "none"]) == 2
    assert "--against none: none of --methods" in capsys.readouterr().err


def test_data_sets_methods_slides_and_intervals_in_all_files(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: tmp_path / f"q.{name}" for name in ("markdown", "csv", "json")}
    arguments = ["--tiles", f"Many={folders[0]}", f"One={folders[1]}@0.5", *SMALL]
    arguments += ["--methods", "Baseline=bicubic,hr", "Gone=runs/none", "--intervals"]
    arguments += [item for name, path in files.items() for item in (f"--{name}", str(path))]
    assert main([*arguments, "--per-slide"]) == 0
    printed = capsys.readouterr().out
    assert files["markdown"].read_text().strip() == printed.strip()

    head, _, *lines = cells(printed)
    assert head == ["data", "method", "slide", "psnr", "hf_db", "lr_rmse", "lpips"]
    assert [line[:3] for line in lines if line[0] == "One"] == [
        ["One", "Baseline", "all"],
        ["One", "Baseline", "."],
        ["One", "hr", "all"],
        ["One", "hr", "."],
        ["One", "Gone", "all"],
    ]
    assert len(lines) == 9 + 5
    assert {line[6] for line in lines if line[1] == "hr"} == {"not run: weights missing"}
    gone = next(line for line in lines if line[1] == "Gone")
    assert all(cell.startswith("not run: neither a known model") for cell in gone[3:])
    assert "- One: Gone x4: not run: --model runs/none: neither" in printed
    assert "wsisr models fetch lpips" in printed
    assert "bootstrap over slides of Many; tiles of One" in printed

    rows = list(csv.DictReader(files["csv"].open()))
    assert len(rows) == len(lines) * 4
    found = {
        row["slide"]: row
        for row in rows
        if (row["data"], row["method"], row["metric"]) == ("Many", "Baseline", "psnr")
    }
    assert len(found) == 4
    pooled = found.pop("all")
    assert int(pooled["tiles"]) == 6
    assert float(pooled["low"]) < float(pooled["value"]) < float(pooled["high"])
    assert {row["tiles"] for row in found.values()} == {"2"}
    mean = np.mean([float(row["value"]) for row in found.values()])
    assert float(pooled["value"]) == pytest.approx(mean)
    assert all(row["not_run"] and not row["value"] for row in rows if row["method"] == "Gone")

    result = json.loads(files["json"].read_text())
    assert set(result["methods"]) == {"Many: Baseline", "Many: hr", "One: Baseline", "One: hr"}
    assert result["methods"]["Many: Baseline"]["psnr"] == float(pooled["value"])
    assert result["slides"]["One: hr"]["."]["hf_db"] == pytest.approx(0)
    assert set(result["not_run"]) == {"lpips", "Many: Gone x4", "One: Gone x4"}


def test_figures_are_those_of_the_measures_themselves(folders: tuple[Path, Path]) -> None:
    hr = read_image(folders[1] / "a.png")
    lr = area_downsample(hr, 4)
    made = measured(folders[1], [4], [Method("bicubic", "bicubic")], ["psnr", "lr_rmse"])
    scan = Scan(hr)
    sample = Sample(bicubic_upsample(lr, 4), scan, lr)
    chosen = available_metrics(["psnr", "lr_rmse"])[0]
    expected = measure_tile(sample, chosen)
    assert made.rows[0].values == {name: item.value for name, item in expected.items()}


def test_a_group_of_measures_is_a_column_a_measure(folders: tuple[Path, Path]) -> None:
    made = measured(folders[1], [4], [Method("bicubic", "bicubic")], ["offline"])
    offline, _ = available_metrics(["offline"])
    assert made.columns == tuple(metric.name for metric in offline)
    assert {"psnr", "nuclei_pq"} <= set(made.rows[0].values)


@pytest.mark.parametrize(("number", "columns"), [(2, 9), (3, 4), (4, 13), (6, 9)])
def test_shapes_of_the_papers_tables(
    folders: tuple[Path, Path], number: int, columns: int, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--tiles", f"PRAD-100={folders[1]}", "--table", str(number), "--quiet"]
    assert main([*arguments, "--methods", "160k/with=bicubic"]) == 0
    printed = capsys.readouterr().out
    head, _, line = cells(printed)
    shape = LAYOUTS[number]
    assert head[0] == "Datasets"
    assert tuple(head[1 : len(shape.headings) + 1]) == shape.headings
    assert head[-columns - 1] == "Scale"
    names = ["160k", "with"] if len(shape.headings) == 2 else ["160k/with"]
    assert line[: -columns - 1] == ["PRAD-100", *names]
    # 64 px are too few for NIQE, and no weights are there: all stay in the table and say why
    for name, cell in zip(shape.metrics, line[-columns:], strict=True):
        runs = name in ("psnr", "ssim", "l1_texture", "l1_intensity")
        assert cell.startswith("not run: ") is not runs, name
    if number != 3:
        assert "NRQM ↑: not run: weights missing" in printed


def test_table_5_has_a_column_a_method(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--tiles", f"PRAD-100={folders[1]}", "--table", "5", "--quiet"]
    assert main([*arguments, "--methods", "Bicubic=bicubic", "Ours=hr"]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("error: nothing was measured: weights missing")
    assert printed.err.count("\n") == 1
    head, _, *lines = cells(printed.out)
    assert head == ["PRAD-100 ×4", "Bicubic", "Ours"]
    assert [line[0] for line in lines] == ["UNI cosine ↑", "PLIP cosine ↑"]
    assert {cell for line in lines for cell in line[1:]} == {"not run: weights missing"}


def test_a_model_that_fails_on_a_tile_leaves_the_others_standing(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> Upscale:
        def upscale(lr: Image, scale: int, *_: object) -> Image:
            if scale == 8:
                raise UsageError("only a scale of 4 is known to it")
            return bicubic_upsample(lr, scale)

        return upscale

    monkeypatch.setattr(measure, "load_method", load)
    made = measured(folders[1], [4, 8], [Method("x", "x")], ["psnr"])
    assert made.json()["methods"].keys() == {"x x4"}
    assert made.json()["not_run"] == {"x x8": "only a scale of 4 is known to it"}


def test_the_precision_of_a_model_can_be_said(folders: tuple[Path, Path]) -> None:
    # by default it depends on the machine, and figures with it
    lr = area_downsample(read_image(folders[1] / "a.png"), 4)
    data, tile = DataSet("d", folders[1]), folders[1] / "a.png"
    full, half = (
        load_method(Method("plain", "plain"), "cpu", precision)(lr, 4, data, tile)
        for precision in ("fp32", "bf16")
    )
    assert not np.array_equal(full, half)
    assert np.abs(full.astype(int) - half).mean() < 1


def test_ready_results_lie_by_data_set_and_scale(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    for scale in (2, 4):
        folder = tmp_path / "ready" / "d" / f"x{scale}"
        folder.mkdir(parents=True)
        image = read_image(folders[1] / "a.png")
        low = bicubic_upsample(area_downsample(image, scale), scale)
        cv2.imwrite(str(folder / "a.png"), low[:, :, ::-1])
    both = [Method("Ours", str(tmp_path / "ready")), Method("bicubic", "bicubic")]
    made = measured(folders[1], [2, 4], both, ["psnr", "hf_db"]).json()["methods"]
    assert made["Ours x2"] == made["bicubic x2"] != made["Ours x4"] == made["bicubic x4"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tiles", "{0}", "{0}"], "--tiles: many stands twice"),
        (["--tiles", "{0}", "--methods", "bicubic,bicubic"], "--methods: bicubic stands twice"),
        (["--tiles", "a={0}@x"], "'x' is no pixel size in um"),
        (["--tiles", "a={0}@9"], "at most 2 um"),
        (["--tiles", "{0}", "--scales", "4,four"], "--scales 4,four: give whole numbers"),
        (["--tiles", "{0}", "--scales", "4,4"], "each once"),
        (["--tiles", "{0}", "--metrics", "psnrr"], "psnrr: unknown measure"),
        (["--tiles", "{0}", "--methods", "a="], "a method is NAME or LABEL=NAME"),
        (["--tiles", "{0}", "--limit", "0"], "--limit 0: must be 1 or more"),
        (["--tiles", "{0}", "--limit", "-1"], "--limit -1: must be 1 or more"),
        (["--tiles", "{0}", "--device", "foo"], "device foo: not usable on this machine"),
        (
            ["--tiles", "{0}", "--device", "cuda:99", "--methods", "hr,tiny"],
            "device cuda:99: not",
        ),
    ],
)
def test_wrong_arguments_are_one_line_and_2(
    folders: tuple[Path, Path],
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    filled = [text.format(*folders) for text in arguments]
    assert main([*filled, "--quiet"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_nothing_measured_is_1_and_one_line(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ready = tmp_path / "ready"
    ready.mkdir()
    cv2.imwrite(str(ready / "a.png"), np.zeros((32, 32, 3), np.uint8))
    arguments = ["--tiles", str(folders[1]), *SMALL[:2], "--quiet", "--metrics", "psnr,ssim"]
    for methods, why in (
        (["runs/none"], "model runs/none: neither a known model"),
        ([str(ready)], "image is 32x32 px and the reference 64x64 px"),
        ([str(ready), "hr", "--against", "hr", "--metrics", "lpips"], "weights missing"),
    ):
        assert main([*arguments, "--methods", *methods]) == 1
        printed = capsys.readouterr()
        assert printed.err.startswith("error: nothing was measured: ")
        assert why in printed.err
        assert printed.err.count("\n") == 1
        assert "not run: " in printed.out
    assert main([*arguments, "--methods", str(ready), "hr"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("option", ["--markdown", "--csv", "--json"])
def test_a_file_that_cannot_be_written_is_named_before_anything_is_measured(
    folders: tuple[Path, Path],
    tmp_path: Path,
    option: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def measure_nothing(*_: object, **__: object) -> None:
        raise AssertionError("measured for nothing")

    file, kept = tmp_path / "file", tmp_path / "kept"
    file.touch()
    kept.write_text("as it was")
    with monkeypatch.context() as patched:
        patched.setattr(table, "measure_plan", measure_nothing)
        # nobody, not even root, may write there
        for path in (tmp_path / "no" / "q", tmp_path, file / "q", Path("/proc/version/q")):
            arguments = ["--tiles", str(folders[1]), *SMALL, option, str(path)]
            assert main(arguments) == 1
            error = capsys.readouterr().err
            assert error.startswith(f"error: {path} cannot be written: ")
            assert error.count("\n") == 1
        patched.setattr(os, "access", lambda *_: False)
        assert main(["--tiles", str(folders[1]), *SMALL, option, str(kept)]) == 1
        assert f"{kept} cannot be written: " in capsys.readouterr().err
    # looked at, not touched
    assert main(["--tiles", str(tmp_path / "none"), option, str(kept)]) == 2
    assert kept.read_text() == "as it was"


def test_a_difference_to_a_perfect_score_has_its_sign(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--tiles", str(folders[1]), "--scales", "4", "--metrics", "psnr", "--quiet"]
    assert main([*arguments, "--methods", "bicubic,hr", "--against", "hr"]) == 0
    lines = {line[0]: line[1] for line in cells(capsys.readouterr().out)}
    assert lines["hr"] == "inf"
    assert lines["bicubic - hr"].startswith("-inf")


def test_differences_to_a_method_that_did_not_run_are_missed_aloud(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--tiles", f"d={folders[1]}", "--scales", "4,8", "--metrics", "psnr", "--quiet"]
    arguments += ["--methods", "bicubic", "Gone=runs/none", "--against", "Gone"]
    assert main(arguments) == 0
    error = capsys.readouterr().err
    said = "--against Gone: no differences on d x4, d x8: --model runs/none: neither a known"
    assert error.startswith(said)
    assert error.count("\n") == 1


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
    assert main([*arguments, "--methods", f"bicubic,hr,{ready}"]) == 0
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
    assert main(["--tiles", str(folder), "--methods", str(empty), "--quiet"]) == 2
    assert "has no 0.png" in capsys.readouterr().err
    assert main(["--tiles", str(folder / "no"), "--quiet"]) == 2
    assert "is not a folder" in capsys.readouterr().err
