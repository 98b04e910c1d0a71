from __future__ import annotations

import base64
import csv
import hashlib
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tests.engine.support import job, tissue_like
from wsisr.engine import upscale
from wsisr.errors import OutputError
from wsisr.scaleout.cohort import ReportRow, write_report
from wsisr.scaleout.cohort.report import html
from wsisr.scaleout.cohort.report.wording import duration

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Collects what is on a page, and complains of tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.images: list[str] = []
        self.cells: list[list[str]] = []
        self.script = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")
        self.links += [given["href"] or ""] if "href" in given else []
        self.images += [given["src"] or ""] if "src" in given else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" in self.open:
            self.script += data
        elif "table" in self.open and self.cells and self.cells[-1]:
            self.cells[-1][-1] += data


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    from PIL import Image

    path = tmp_path / "private" / "a b.png"
    path.parent.mkdir()
    Image.fromarray(tissue_like(96, 64)).save(path)
    return path


@pytest.fixture
def rows(slide: Path, tmp_path: Path) -> list[ReportRow]:
    """Each state once, with what could do harm to a table or a page."""
    out = tmp_path / "out"
    out.mkdir()
    made = out / "sub" / "a b.ome.tif"
    made.parent.mkdir()
    upscale(job(slide, output=made))
    (out / "broken.ome.tif").write_bytes(b"II*\0broken")
    return [
        ReportRow(
            "a b", str(slide), made, "done", "", 12.34567, 1.5, 7, 512.04, "cpu", 1, "ab" * 32,
            {"psnr": 31.25, "hf_db": -1.5},
        ),
        ReportRow(
            "broken", str(slide), out / "broken.ome.tif", "skipped", figures={"psnr": math.nan}
        ),
        ReportRow(
            "=cmd()", str(slide.with_name("bad.svs")), out / "bad.ome.tif", "failed",
            f"{slide.with_name('bad.svs')} is empty; see /var/log/x.log\nor <b>{slide.parent}</b>",
            attempts=2,
        ),
        ReportRow(
            "url", "s3://user:secret@bucket/k/x.svs?sign=secret", Path("/far/away/x.ome.zarr"),
            "interrupted", "s3://user:secret@bucket/k/x.svs?sign=secret: the server is silent",
        ),
        ReportRow("else\udcff", "x.svs", out / "none.ome.tif", "elsewhere"),
    ]  # fmt: skip


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_table_has_a_line_a_slide(rows: list[ReportRow], tmp_path: Path) -> None:
    paths = write_report(rows, tmp_path / "out")
    table = read_csv(paths.csv)
    assert list(table[0])[:12] == [
        "id", "slide", "output", "status", "reason", "seconds", "mpix_per_s", "tissue_tiles",
        "peak_rss_mb", "device", "attempts", "sha256_pixels",
    ]  # fmt: skip
    assert list(table[0])[12:] == ["psnr", "hf_db"]
    assert table[0]["output"] == "sub/a b.ome.tif"
    # a figure below zero is no formula
    assert (table[0]["psnr"], table[0]["hf_db"], table[0]["seconds"]) == ("31.25", "-1.5", "12.346")
    assert (table[1]["psnr"], table[1]["seconds"], table[1]["sha256_pixels"]) == ("", "", "")
    assert table[2]["id"] == "'=cmd()"
    assert table[3]["output"] == "x.ome.zarr"
    assert [row["slide"] for row in table[:2]] == ["a b.png"] * 2
    assert [row["status"] for row in table] == [row.status for row in rows]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1"])
def test_formulas_are_text(text: str, tmp_path: Path) -> None:
    paths = write_report([ReportRow("a", "a", Path("a"), "failed", text)], tmp_path)
    assert read_csv(paths.csv)[0]["reason"] == f"'{text.strip()}"


def test_the_json_has_totals_version_and_settings(rows: list[ReportRow], tmp_path: Path) -> None:
    settings = {"out": tmp_path, "scale": 4, "nested": {"x": (1, None)}}
    paths = write_report(rows, tmp_path / "out", settings=settings, seconds=99.0)
    found = json.loads(paths.json.read_text(encoding="utf-8"))
    assert found["wsisr"] == "0.1.0"
    assert found["settings"] == {"out": tmp_path.name, "scale": 4, "nested": {"x": [1, None]}}
    assert found["totals"] == {
        "slides": 5, "done": 1, "skipped": 1, "failed": 1, "interrupted": 1, "elsewhere": 1,
        "seconds": 99.0, "seconds_of_slides": 12.34567,
    }  # fmt: skip
    assert found["slides"][0]["figures"] == {"psnr": 31.25, "hf_db": -1.5}
    assert found["slides"][1]["figures"] == {"psnr": None}
    assert found["slides"][2]["id"] == "=cmd()"


def test_the_page_is_whole_and_needs_nothing_else(rows: list[ReportRow], tmp_path: Path) -> None:
    text = write_report(rows, tmp_path / "out", seconds=3700).html.read_text(encoding="utf-8")
    page = Page(text)
    assert "2 of 5 slides are finished" in text
    assert "1 h 01 min" in text
    assert "not for primary diagnosis" in text
    states = ["failed", "interrupted", "done", "skipped", "elsewhere"]
    assert all(
        line[2].startswith(state) for line, state in zip(page.cells[1:], states, strict=True)
    )
    assert all(len(line) == len(page.cells[0]) for line in page.cells)
    assert not re.search(r"(src|href)=\"(https?:)?//", text)
    assert "<b>/" not in text
    assert page.links == ["sub/a%20b.ome.tif", "broken.ome.tif"]
    digest = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text


def test_the_page_can_be_passed_on(rows: list[ReportRow], tmp_path: Path) -> None:
    paths = write_report(rows, tmp_path / "out")
    for path in (paths.html, paths.csv, paths.json):
        text = path.read_text(encoding="utf-8")
        for private in (str(tmp_path), "private", "/var/log", "/far", "secret"):
            assert private not in text, private
        assert "bad.svs is empty; see x.log or" in text


def test_names_may_be_hidden(rows: list[ReportRow], tmp_path: Path) -> None:
    hidden = [replace(row, id=f"n{i}", anonymous=True) for i, row in enumerate(rows)]
    paths = write_report(hidden, tmp_path / "out")
    for path in (paths.csv, paths.json):
        text = path.read_text(encoding="utf-8")
        for name in ("a b.png", "bad.svs", "x.svs"):
            assert name not in text, name
        assert "n2 is empty" in text


def test_only_what_can_be_read_has_a_picture(rows: list[ReportRow], tmp_path: Path) -> None:
    import cv2

    page = Page(write_report(rows, tmp_path / "out").html.read_text(encoding="utf-8"))
    (image,) = page.images
    assert image.startswith("data:image/jpeg;base64,")
    data = np.frombuffer(base64.b64decode(image.partition(",")[2]), np.uint8)
    height, width = cv2.imdecode(data, cv2.IMREAD_COLOR).shape[:2]
    assert max(width, height) <= 200
    assert width / height == pytest.approx(1.5, rel=0.03)


def test_pictures_are_left_out_where_the_page_would_become_large(
    rows: list[ReportRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [replace(rows[0], id=str(number)) for number in range(40)]
    whole = write_report(many, tmp_path / "out").html
    assert len(Page(whole.read_text(encoding="utf-8")).images) == 40
    monkeypatch.setattr(html, "PAGE_BYTES", whole.stat().st_size * 3 // 4)
    less = write_report(many, tmp_path / "out").html
    text = less.read_text(encoding="utf-8")
    shown = len(Page(text).images)
    assert 5 < shown < 40
    assert f"{40 - shown} results are shown without a picture" in text
    assert less.stat().st_size <= html.PAGE_BYTES + 500


def test_ten_thousand_rows_stay_small(tmp_path: Path) -> None:
    rows = [
        ReportRow(f"slide {n}", f"/data/{n}.svs", tmp_path / f"{n}.ome.tif", "failed", "is empty")
        for n in range(10_000)
    ]
    paths = write_report(rows, tmp_path)
    assert paths.html.stat().st_size < html.PAGE_BYTES
    assert len(read_csv(paths.csv)) == 10_000


def test_no_rows_make_a_report_too(tmp_path: Path) -> None:
    paths = write_report([], tmp_path / "new", name="report-1of8")
    assert paths.html.name == "report-1of8.html"
    assert "0 of 0 slides" in paths.html.read_text(encoding="utf-8")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "report-1of8.csv", "report-1of8.html", "report-1of8.json",
    ]  # fmt: skip


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="file"):
        write_report([], tmp_path / "file")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, ""),
        (0.04, "0.0 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 00 min"),
    ],
)
def test_durations_read_well(seconds: float | None, said: str) -> None:
    assert duration(seconds) == said
