"""What is written names no folder, and no slide where that is asked for."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import wsisr
from tests.engine.support import tissue_like
from wsisr.cli.main import cli
from wsisr.sharing import (
    cell,
    file_name,
    plain_cell,
    pseudonym,
    shareable,
    to_csv,
    without_folders,
)

SECRET = "Jane Doe 1970"


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    folder = tmp_path / "private folder"
    folder.mkdir()
    Image.fromarray(tissue_like(96, 64)).save(folder / f"{SECRET}.png")
    return folder / f"{SECRET}.png"


OPTIONS = ["--input-mpp", "1", "--model", "bicubic", "--window", "128", "--overlap", "32"]


def run(*arguments: str | Path) -> None:
    done = CliRunner().invoke(cli, [*map(str, arguments)])
    assert done.exit_code == 0, done.output


def contents(place: Path) -> Iterator[tuple[Path, bytes]]:
    """Yields what stands in every file of a folder."""
    for file in sorted(place.rglob("*")):
        if file.is_file():
            yield file, file.read_bytes()


def assert_nowhere(place: Path, *secrets: str) -> None:
    found = [
        (file.name, secret)
        for file, data in contents(place)
        for secret in secrets
        if secret.encode() in data or json.dumps(secret)[1:-1].encode() in data
    ]
    assert not found
    assert not [f for f in place.rglob("*") if any(s in str(f.relative_to(place)) for s in secrets)]


@pytest.mark.parametrize("suffix", [".ome.tif", ".ome.zarr"])
@pytest.mark.parametrize("anonymous", [False, True])
def test_outputs(tmp_path: Path, slide: Path, suffix: str, anonymous: bool) -> None:
    out = tmp_path / "out"
    out.mkdir()
    mask = slide.with_name(f"{SECRET}-mask.png")
    drawn = np.full((64, 96), 255, np.uint8)
    drawn[:8] = 0
    Image.fromarray(drawn).save(mask)
    more = ["--anonymous"] if anonymous else []
    log = ["--log-json", out / "events.jsonl"]
    run("upscale", slide, out / f"a{suffix}", *OPTIONS, "--tissue", mask, *more, *log)
    run("convert", slide, out / f"b{suffix}", "--input-mpp", "1", *more)
    secrets = [str(slide.parent), slide.parent.name, str(tmp_path)]
    assert_nowhere(out, *secrets, *([SECRET] if anonymous else []))
    events = (out / "events.jsonl").read_text().splitlines()
    expected = pseudonym(slide) if anonymous else slide.name
    assert {json.loads(line)["slide"] for line in events} == {expected}


@pytest.mark.parametrize("anonymous", [False, True])
def test_a_cohort(tmp_path: Path, slide: Path, anonymous: bool) -> None:
    damaged = slide.with_name("damaged slide of Jane.png")
    damaged.write_bytes(slide.read_bytes()[:300])
    out = tmp_path / "results"
    more = ["--anonymous"] if anonymous else []
    log = ["--log-json", tmp_path / "events.jsonl"]
    arguments = ["batch", slide, damaged, "--out", out, *OPTIONS, *more, *log]
    done = CliRunner().invoke(cli, [*map(str, arguments)])
    assert done.exit_code == 1, done.output
    (tmp_path / "events.jsonl").rename(out / "events.jsonl")
    secrets = [str(slide.parent), slide.parent.name, str(tmp_path)]
    assert_nowhere(out, *secrets, *([SECRET, damaged.stem] if anonymous else []))
    rows = {row["id"]: row for row in json.loads((out / "report.json").read_text())["slides"]}
    names = [pseudonym(path) if anonymous else path.stem for path in (slide, damaged)]
    assert [rows[name]["status"] for name in names] == ["done", "failed"]
    assert (out / f"{names[0]}.ome.tif").is_file()
    # what is finished is known again
    again = CliRunner().invoke(cli, [*map(str, arguments[:-2])])
    assert "1 finished before" in again.output


def test_a_failed_run_tells_no_folder(tmp_path: Path, slide: Path) -> None:
    slide.write_bytes(slide.read_bytes()[:300])
    log = tmp_path / "log" / "events.jsonl"
    log.parent.mkdir()
    arguments = ["upscale", slide, tmp_path / "o.ome.tif", *OPTIONS, "--log-json", log]
    for more in ([], ["--anonymous"]):
        assert CliRunner().invoke(cli, [*map(str, arguments), *more]).exit_code != 0
    lines = log.read_text().splitlines()
    assert "private folder" not in "".join(lines)
    assert json.loads(lines[-1])["event"] == "failed"
    assert SECRET in lines[0]
    assert SECRET not in lines[-1]


def test_an_evaluation_tells_no_folder(tmp_path: Path, slide: Path) -> None:
    folders = []
    for name in ("sr", "hr"):
        folder = slide.parent / name
        folder.mkdir()
        for tile in ("a", "b"):
            Image.fromarray(tissue_like(96, 96, seed=len(name + tile))).save(folder / f"{tile}.png")
        folders.append(folder)
    out = tmp_path / "report"
    result = wsisr.evaluate(
        folders[0], folders[1], tiles=True, metrics="psnr,lpips", out=out, workers=1
    )
    assert_nowhere(out, str(tmp_path), slide.parent.name)
    assert str(tmp_path) not in result.json()


@pytest.mark.parametrize("text", ["=1+1", "+1a", "-2+3", "@SUM(A1)", "\t=1", "|calc", "\n=1"])
def test_cells_are_no_formulas(text: str) -> None:
    written = to_csv([[text, "a", -1.5, "-1.5", None, float("nan"), "\r=1"]])
    row = next(csv.reader(io.StringIO(written, newline="")))
    assert row == [f"'{text}", "a", "-1.5", "'-1.5", "", "", "'\n=1"]
    assert plain_cell(str(cell(text))) == text
    assert plain_cell("it's") == "it's"
    assert plain_cell("'a") == "'a"


def test_no_other_csv_is_written() -> None:
    """Cells come from names of files and tiles, wherever a CSV is written."""
    root = Path(wsisr.__file__).parents[1]
    wrong = []
    for package in ("wsisr", "train", "bench"):
        for file in sorted((root / package).rglob("*.py")):
            text = file.read_text(encoding="utf-8")
            if "csv.writer" in text and "import cell" not in text and file.name != "sharing.py":
                wrong.append(str(file.relative_to(root)))
    # a number each iteration
    assert wrong == ["train/iqa/clip_iqa.py"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/jane/a.svs cannot be read", "a.svs cannot be read"),
        (r"C:\Users\jane\a.svs is empty", "a.svs is empty"),
        ("'/a/b c.svs': 5/3 and s3://bucket/key", "'b c.svs': 5/3 and s3://bucket/key"),
        ("a/b.svs, 1/2 um/px", "a/b.svs, 1/2 um/px"),
    ],
)
def test_folders_are_left_out(text: str, expected: str) -> None:
    assert without_folders(text) == expected


def test_known_folders_may_have_blanks(tmp_path: Path) -> None:
    place = tmp_path / "Jane Doe" / "a.svs"
    assert (
        without_folders(f"{place} is empty; see {place.parent}", place)
        == "a.svs is empty; see folder"
    )
    assert without_folders("a", "s3://b/c", None) == "a"


def test_values_that_are_shared() -> None:
    given = {"a": Path("/x/y"), "b": ["/x/z", "rel/p", 5, None, True], "c": {"d": "s3://u:p@h/k?s"}}
    assert shareable(given) == {
        "a": "y",
        "b": ["z", "rel/p", 5, None, True],
        "c": {"d": "s3://h/k"},
    }
    assert file_name("https://u:p@h/a.svs?sig=1") == "https://h/a.svs"


def test_a_pseudonym_rests_on_the_content(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"a" * 3_000_000)
    two.write_bytes(one.read_bytes())
    assert pseudonym(one) == pseudonym(two)
    two.write_bytes(one.read_bytes()[:-1] + b"b")
    assert pseudonym(one) != pseudonym(two)
    folder = tmp_path / "folder"
    folder.mkdir()
    assert len(pseudonym(folder)) == len(pseudonym("s3://a/b")) == 12
