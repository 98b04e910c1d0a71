"""What commands tell: of the run, of what is left out, and of who made a file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from tests.processes import wsisr
from wsisr.cli import cohort, progress
from wsisr.cli.info import as_text
from wsisr.engine import NOTICE
from wsisr.progress import State
from wsisr.scaleout.cohort import CohortState

OPTIONS = ("--input-mag", 10, "--model", "bicubic", "--scale", 4)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "in.png"
    Image.fromarray(np.random.default_rng(0).integers(80, 200, (60, 80, 3), np.uint8)).save(path)
    return path


def ome(path: Path) -> ElementTree.Element:
    if path.is_dir():
        return ElementTree.parse(path / "OME" / "METADATA.ome.xml").getroot()
    return ElementTree.fromstring(str(tifffile.TiffFile(path).ome_metadata))


@pytest.mark.parametrize("name", ["out.ome.tif", "out.ome.zarr"])
def test_an_output_tells_what_made_it(picture: Path, name: str) -> None:
    out = picture.with_name(name)
    done = wsisr(
        "upscale", picture, out, *OPTIONS[:2], "--model", "tiny", "--scale", 4, "--seed", 7
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(wsisr("info", out, "--json").stdout)["provenance"]
    assert record["model"] == "tiny"
    assert record["settings"]["seed"] == 7
    assert record["notice"] == NOTICE
    assert len(record["weights_sha256"]) == 5
    text = wsisr("info", out).stdout
    for wanted in (
        r"^notice: +Computer-generated",
        r"^model: +tiny",
        "seed 7",
        "sha256 [0-9a-f]{16}",
    ):
        assert re.search(wanted, text, re.M), text
    image = ome(out).find("{*}Image")
    assert image is not None
    assert image.get("Name") == "in (super-resolved, wsisr tiny x4)"
    assert image.find("{*}StageLabel") is None
    if out.is_dir():
        attributes = zarr.open_group(out, mode="r").attrs.asdict()
        assert attributes["multiscales"][0]["name"] == "in (super-resolved, wsisr tiny x4)"


def test_what_wsisr_did_not_make_has_no_maker(picture: Path) -> None:
    assert json.loads(wsisr("info", picture, "--json").stdout)["provenance"] is None
    assert "notice" not in wsisr("info", picture).stdout


def test_info_prints_digits_that_mean_something() -> None:
    facts = {
        "mpp": 0.25279999999999997,
        "magnification": 40.0,
        "levels": [[8, 6, 1.0], [2, 2, 3.95]],
    }
    assert list(as_text(facts)) == [
        ("mpp", "0.2528 um/px"),
        ("magnification", "40"),
        ("levels", "8x6 (1/1), 2x2 (1/3.95)"),
    ]


@pytest.mark.parametrize("name", ["out.ome.tif", "out.ome.zarr"])
def test_a_region_keeps_its_place(picture: Path, name: str) -> None:
    out = picture.with_name(name)
    done = wsisr("upscale", picture, out, *OPTIONS, "--region", "20,10,30,40")
    assert done.returncode == 0, done.stderr
    image = ome(out).find("{*}Image")
    assert image is not None
    label = image.find("{*}StageLabel")
    planes = image.findall("{*}Pixels/{*}Plane")
    assert label is not None
    assert (label.get("X"), label.get("Y"), label.get("XUnit")) == ("0.02", "0.01", "mm")
    assert len(planes) == (3 if out.is_dir() else 1)
    for plane in planes:
        assert (plane.get("PositionX"), plane.get("PositionY")) == ("0.02", "0.01")
        assert plane.get("PositionXUnit") == "mm"
    record = json.loads(wsisr("info", out, "--json").stdout)["provenance"]
    assert record["region_of_input"] == [20, 10, 30, 40]
    assert record["position_um"] == [20.0, 10.0]
    assert record["region"] == [80, 40, 120, 160]


def test_an_output_that_exists_is_no_typo(picture: Path) -> None:
    out = picture.with_name("out.ome.tif")
    out.write_bytes(b"precious")
    for command in (("upscale", *OPTIONS), ("convert", "--input-mag", 10)):
        done = wsisr(command[0], picture, out, *command[1:])
        assert done.returncode == 1
        assert "--overwrite" in done.stderr
    assert out.read_bytes() == b"precious"


def test_a_run_without_a_terminal_tells_what_it_will_be(picture: Path) -> None:
    out, log = picture.with_name("out.ome.tif"), picture.with_name("log.txt")
    done = wsisr("upscale", picture, out, *OPTIONS, "--log-file", log)
    first, last = done.stderr.splitlines()
    for part in ("320x240 px", "of 1 windows", "model bicubic", "cpu", "on disk", "of memory"):
        assert part in first
    assert NOTICE in last
    wsisr("upscale", picture, out, *OPTIONS, "--log-file", log)
    wsisr("upscale", picture, out, *OPTIONS, "--nope", "--log-file", log)
    lines = log.read_text().splitlines()
    assert [line.partition(" INFO ")[2] for line in lines[:2]] == [first, last]
    assert lines[2].endswith("give --overwrite or another name")
    refused = wsisr("upscale", picture, out, "--log-file", picture.parent / "no" / "log.txt")
    assert refused.returncode == 1
    assert "log.txt" in refused.stderr


def test_a_conversion_tells_that_it_is_alive(picture: Path) -> None:
    done = wsisr("convert", picture, picture.with_name("c.ome.tif"), "--input-mag", 10)
    assert done.returncode == 0
    assert done.stderr.startswith("1 of 1 tiles")


def test_lines_come_when_the_duration_is_known_and_then_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    tell = progress.lines("window")
    for second, done in ((1, 1), (11, 2), (12, 3), (60, 4), (75, 5)):
        now = second
        tell(State(done, 9, done - 1, seconds=second, tissue_total=8))
    told = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in told] == ["2 of 9 windows", "5 of 9 windows"]
    assert all("to go" in line for line in told)


def test_going_on_is_announced(picture: Path) -> None:
    from wsisr.engine import Foresight

    plain = Foresight(8, 6, 0.25, 40, 4, 2, 1, 0.5, 100, 100, 100, "tiny", "cpu", "fp32", 1)
    assert "goes on" not in str(plain)
    resumed = Foresight(*list(vars(plain).values())[:-1], done_share=0.3)
    assert str(resumed).endswith("it goes on from an unfinished run, at 30 %")


@pytest.mark.parametrize(("name", "wanted"), [("restore", "restoration"), ("bicubic", "baseline")])
def test_every_model_can_be_shown(name: str, wanted: str) -> None:
    done = wsisr("models", "show", name)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{name}: ")
    assert wanted in done.stdout
    assert json.loads(wsisr("models", "show", name, "--json").stdout)["name"] == name


def test_eval_tells_in_a_line_what_is_left_out_and_where_the_report_is(picture: Path) -> None:
    out = picture.with_name("report")
    Image.fromarray(np.full((96, 96, 3), 150, np.uint8)).save(picture)
    command = ("eval", picture, "--sr-mpp", 0.25, "--tile-size", 32, "--count", 1)
    done = wsisr(*command, "--metrics", "sharpness,hf_db")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["sr", "sharpness"]
    told = done.stderr.splitlines()[-1]
    assert told == "not run: hf_db, bicubic; --out DIR or --json say why"
    done = wsisr(*command, "--metrics", "sharpness,hf_db", "--out", out)
    assert done.stderr.splitlines()[-1] == f"report: {out / 'report.html'}"
    assert (out / "report.html").exists()


def test_a_cohort_without_a_terminal_tells_a_line_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 1000.0
    monkeypatch.setattr(cohort.time, "monotonic", lambda: now)
    write = cohort.lines()
    for second, windows in ((0, 1), (30, 2), (61, 3), (100, 4)):
        now = 1000.0 + second
        write(CohortState(0, 0, 2, 0.001, float(second), {"a": (windows, 10)}))
    told = capsys.readouterr().err.splitlines()
    assert told == ["0 of 2 slides: a 10 %", "0 of 2 slides: a 30 %"]
