from __future__ import annotations

import csv
import html.parser
import json
import math
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from lxml import etree

from wsisr.cli import cli, run
from wsisr.errors import ModelError, OptionError, OutputError, SlideError, UsageError
from wsisr.evaluation import evaluate, measure, parse_labels, weights
from wsisr.evaluation.measures.fidelity import psnr
from wsisr.evaluation.measures.pixels import Image
from wsisr.evaluation.measures.sample import Measurement
from wsisr.evaluation.measures.selection import summarize
from wsisr.evaluation.options import Options, available_cores
from wsisr.evaluation.pairing.locations import Location
from wsisr.evaluation.pairing.slides import LEAST_TISSUE, SlidePairs
from wsisr.evaluation.report.results import TileResult
from wsisr.evaluation.statistics import bootstrap
from wsisr.resize import area_downsample, bicubic_upsample
from wsisr.slides import open_slide

FAST = ("psnr", "ssim", "nuclei_pq", "hf_db", "lr_rmse")


def save(path: Path, image: Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image[:, :, ::-1])
    return path


@pytest.fixture(scope="module")
def pair(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A real 1024 px region, its x4 LR image, and a bicubic enlargement of that as SR."""
    folder = tmp_path_factory.mktemp("pair")
    with open_slide(data_dir / "slides" / "test_b_40x.tif") as slide:
        hr = slide.read(0, 1024, 1024, 1024, 1024)
    lr = area_downsample(hr, 4)
    images = {"hr": hr, "lr": lr, "sr": bicubic_upsample(lr, 4)}
    return {name: save(folder / f"{name}.png", image) for name, image in images.items()}


def test_slides_on_one_grid_are_compared_without_resampling(
    pair: dict[str, Path], tmp_path: Path
) -> None:
    result = evaluate(
        pair["sr"],
        pair["hr"],
        pair["lr"],
        metrics=FAST,
        count=4,
        out=tmp_path / "out",
        workers=2,
        sr_mpp=0.25,
        hr_mpp=0.25,
    )
    assert result.alignment is not None
    assert result.alignment.matrix == ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    assert len(result.tiles) == 4
    # SR is the bicubic baseline itself, so both columns agree and the tiles equal a direct look
    assert result.methods["sr"] == pytest.approx(result.methods["bicubic"], rel=1e-6)
    sr, hr = (cv2.imread(str(pair[name]))[:, :, ::-1] for name in ("sr", "hr"))
    for tile in result.tiles:
        window = np.s_[tile.location.y :, tile.location.x :]
        parts = [np.ascontiguousarray(image[window][:512, :512]) for image in (sr, hr)]
        assert tile.values["sr"]["psnr"].value == pytest.approx(psnr(*parts), abs=1e-9)
    for name, (low, high) in result.intervals["sr"].items():
        assert low <= result.methods["sr"][name] <= high


class Page(html.parser.HTMLParser):
    """Collects what a browser would fetch, and checks that elements close."""

    void = frozenset({"meta", "br", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for name, value in attributes if name in ("src", "href")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag in ("rect", "circle")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def faults(page: str) -> list[str]:
    """What libxml2's HTML parser has to say of a page; it does not know the tags of HTML 5."""
    parser = etree.HTMLParser()
    etree.fromstring(page.encode("utf-8"), parser)
    unknown = etree.ErrorTypes.HTML_UNKNOWN_TAG
    return [str(entry) for entry in parser.error_log if entry.type != unknown]


def requests(page: str) -> list[str]:
    """What a browser would fetch for a page, from elements and from style sheets."""
    found = []
    for element in etree.fromstring(page.encode("utf-8"), etree.HTMLParser()).iter():
        if element.tag in ("script", "link", "iframe", "object", "embed", "base"):
            found.append(str(element.tag))
        for name, value in element.attrib.items():
            fetches = name in ("src", "href", "srcset", "xlink:href", "action", "poster", "data")
            if (fetches and not value.startswith("data:image/jpeg;base64,")) or "://" in value:
                found.append(f"{name}={value[:80]}")
    for styles in re.findall(r"<style>(.*?)</style>|style=\"(.*?)\"", page, re.DOTALL):
        rules = "".join(styles).replace("@media print", "")
        if "url(" in rules or "@" in rules:
            found.append(rules)
    return found


def test_a_reports_markup_is_valid_and_nothing_is_fetched(
    pair: dict[str, Path], tmp_path: Path
) -> None:
    awkward = tmp_path / "a<b>&'\"https: slide.png"
    awkward.write_bytes(pair["sr"].read_bytes())
    evaluate(
        awkward,
        pair["hr"],
        pair["lr"],
        metrics=("psnr", "niqe", "nuclei_recall", "lpips"),
        count=2,
        out=tmp_path,
        sr_mpp=0.25,
        hr_mpp=0.25,
        also={"x.y": pair["sr"]},
    )
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert faults(page) == []
    assert requests(page) == []
    policy = re.search(r'http-equiv="Content-Security-Policy" content="(.*?)"', page)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; img-src data:;")
    # the checks themselves notice what they are for
    assert faults(page.replace("</table>", "</div></table>", 1)) != []
    assert faults(page.replace("</h2>", "</h3>", 1)) != []
    for tag in (
        '<img src="https://x.y/a.jpg" alt="">',
        '<script src="a.js"></script>',
        "<style>@import 'a.css'</style>",
    ):
        assert requests(page.replace("<h2>", f"{tag}<h2>", 1)) != []


def test_the_report_is_one_page_with_tidy_tables(pair: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "report"
    result = evaluate(
        pair["sr"],
        pair["hr"],
        pair["lr"],
        metrics=FAST,
        out=out,
        sr_mpp=0.25,
        hr_mpp=0.25,
    )
    page = Page()
    page.feed((out / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.fetched)
    assert len(page.fetched) == len(FAST) + min(10, len(result.tiles))
    assert "not for primary diagnosis" in page.text
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert set(summary["methods"]) == {"sr", "bicubic"}
    assert summary["alignment"]["residual_px"] < 0.1
    with (out / "tiles.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(result.tiles) * 2 * len(FAST)
    values = [float(r["value"]) for r in rows if (r["method"], r["metric"]) == ("sr", "psnr")]
    assert np.mean(values) == pytest.approx(summary["methods"]["sr"]["psnr"])
    shapes = json.loads((out / "tiles.geojson").read_text(encoding="utf-8"))
    assert shapes["type"] == "FeatureCollection"
    assert len(shapes["features"]) == len(result.tiles)
    assert shapes["features"][0]["properties"]["measurements"]["sr: psnr"] > 10


def test_misaligned_slides_get_no_full_reference_figures(
    pair: dict[str, Path], tmp_path: Path
) -> None:
    transform = tmp_path / "t.json"
    transform.write_text(json.dumps({"matrix": [[1, 0, 1.5], [0, 1, 0]]}))
    arguments = (pair["sr"], pair["hr"], pair["lr"])
    result = evaluate(*arguments, metrics=FAST, count=2, transform=transform, sr_mpp=0.25)
    assert set(result.methods["sr"]) == {"lr_rmse"}
    assert "misaligned by 1." in result.not_run["psnr"]
    forced = evaluate(
        *arguments,
        metrics=FAST,
        count=2,
        force=True,
        transform=transform,
        sr_mpp=0.25,
    )
    assert "psnr" in forced.methods["sr"]


def test_several_results_share_places_and_table(pair: dict[str, Path], tmp_path: Path) -> None:
    hr = cv2.imread(str(pair["hr"]))[:, :, ::-1]
    shifted = save(tmp_path / "shifted.png", np.roll(hr, 2, axis=1))
    out = tmp_path / "out"
    arguments = ["eval", pair["sr"], pair["hr"], "--lr", pair["lr"], "--out", out, "--count", 2]
    arguments += ["--label", "cubic", "--also", f"true={pair['hr']}", "--also", f"off={shifted}"]
    arguments += ["--sr-mpp", 0.25, "--hr-mpp", 0.25, "--metrics", "psnr,lr_rmse,hf_db,nuclei_pq"]
    done = CliRunner().invoke(cli, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    methods = result["methods"]
    assert list(methods) == ["cubic", "true", "off", "bicubic"]
    assert methods["true"]["hf_db"] == pytest.approx(0, abs=1e-9)
    assert methods["true"]["nuclei_pq"] == 1.0
    # what lies beside the scan's grid has no full-reference figures, and says so
    assert set(methods["off"]) == {"lr_rmse"}
    assert "misaligned by 2.0" in result["not_run"]["full-reference measures of off"]
    assert result["also_alignments"]["true"]["residual_px"] < 0.01
    drawn = {path.name for path in (out / "lost_and_invented").iterdir()}
    assert drawn == {"cubic.geojson", "true.geojson"}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert all(f">{name}</text>" in page for name in ("cubic", "bicubic"))  # points of the plot
    assert all(f"<th>{name}</th>" in page for name in methods)
    assert "are those of <b>cubic</b>" in page
    alone = ["eval", pair["sr"], "--also", f"true={pair['hr']}", "--metrics", "sharpness"]
    table = CliRunner().invoke(cli, [*map(str, alone)]).stdout.splitlines()
    assert table[0].split() == ["sr", "true"]


def test_several_folders_share_a_table(folders: dict[str, Path], tmp_path: Path) -> None:
    also = {"true": folders["hr"]}
    result = evaluate(
        folders["sr"], folders["hr"], tiles=True, scale=4, metrics=("psnr", "lr_rmse"), also=also
    )
    assert list(result.methods) == ["sr", "true", "bicubic"]
    assert math.isinf(result.methods["true"]["psnr"])
    (tmp_path / "few").mkdir()
    save(tmp_path / "few" / "slide0" / "tile0.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UsageError, match="few lacks slide0/tile3"):
        evaluate(folders["sr"], folders["hr"], tiles=True, also={"few": tmp_path / "few"})


def test_results_of_another_size_are_no_columns_of_one_table(pair: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match=r"^also small=.*lr\.png: it is 256x256 px, .* one grid"):
        evaluate(pair["sr"], also={"small": pair["lr"]})


@pytest.mark.parametrize(
    ("label", "also", "message"),
    [
        ("sr", ["path"], "also path: give LABEL=PATH"),
        ("sr", ["a="], "also a=: give LABEL=PATH"),
        ("sr", ["../a=b"], "also ../a: a label has"),
        ("a/b", [], "label a/b: a label has"),
        ("sr", ["SR=b"], "also SR: this label is taken"),
        ("sr", ["a=b", "a=c"], "also a: this label is taken"),
        ("Bicubic", [], "label Bicubic: this label is taken"),
    ],
)
def test_labels_are_names_of_their_own(label: str, also: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        evaluate("sr", label=label, also=parse_labels(also))
    assert parse_labels(["a=b=c"]) == {"a": Path("b=c")}


def test_a_slide_alone_says_what_it_lacks(pair: dict[str, Path]) -> None:
    alone = evaluate(pair["sr"], lr=pair["lr"], metrics=FAST, count=2)
    assert set(alone.methods["sr"]) == {"lr_rmse"}
    assert "real high-resolution scan" in alone.not_run["psnr"]
    without = evaluate(pair["sr"], metrics=FAST, count=2)
    assert "(LR)" in without.not_run["lr_rmse"]
    assert "(LR)" in without.not_run["bicubic"]


def test_results_are_the_same_whatever_the_worker_count(pair: dict[str, Path]) -> None:
    threads = cv2.getNumThreads()
    learned = [name for name in ("st_lpips",) if weights.why_missing(name) is None]
    found = [
        evaluate(
            pair["sr"],
            pair["hr"],
            pair["lr"],
            metrics=(*FAST, *learned),
            workers=workers,
            tile_size=128,
            count=5,
            sr_mpp=0.25,
            hr_mpp=0.25,
        )
        for workers in (1, 3)
    ]
    assert found[0].csv() == found[1].csv()
    assert found[0].json() == found[1].json()
    assert cv2.getNumThreads() == threads


def test_opencv_starts_no_threads_inside_the_workers(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(
        "wsisr.evaluation.measures.table.fidelity.psnr",
        lambda *_: float(seen.append(cv2.getNumThreads()) or 0),
    )
    cv2.setNumThreads(2)
    evaluate(folders["sr"], folders["hr"], tiles=True, metrics="psnr")
    assert set(seen) == {1}
    assert cv2.getNumThreads() == 2


def test_by_default_a_worker_has_a_core_each() -> None:
    assert Options().workers == available_cores() >= 1


def test_tiles_are_drawn_by_seed(pair: dict[str, Path]) -> None:
    def names(seed: int) -> list[str]:
        result = evaluate(
            pair["sr"], lr=pair["lr"], metrics="lr_rmse", count=3, seed=seed, tile_size=256
        )
        return [tile.location.name for tile in result.tiles]

    assert names(1) == names(1)
    assert names(1) != names(2)


def test_an_lr_of_another_size_is_refused(pair: dict[str, Path], tmp_path: Path) -> None:
    odd = save(tmp_path / "odd.png", cv2.imread(str(pair["lr"]))[:200])
    with pytest.raises(UsageError, match="no whole fraction"):
        evaluate(pair["sr"], lr=odd, metrics=("lr_rmse",))


def test_glass_alone_has_no_tissue_to_judge(tmp_path: Path) -> None:
    glass = save(tmp_path / "glass.png", np.full((600, 600, 3), 242, np.uint8))
    with pytest.raises(SlideError, match="no 512 px tile of tissue; choose a smaller tile_size"):
        evaluate(glass)


@pytest.mark.parametrize(
    ("x", "reason"),
    [(5000, "have no area in common"), (900, "in common holds no 512 px tile of tissue")],
)
def test_slides_that_overlap_too_little_are_refused(
    pair: dict[str, Path], tmp_path: Path, x: int, reason: str
) -> None:
    transform = tmp_path / "t.json"
    transform.write_text(json.dumps({"matrix": [[1, 0, x], [0, 1, 0]]}))
    with pytest.raises(SlideError, match=reason):
        evaluate(pair["sr"], pair["hr"], metrics=FAST, transform=transform, sr_mpp=0.25)


def test_bad_input_is_one_line_with_a_code_and_leaves_no_report(
    pair: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = save(tmp_path / "other.png", np.full((600, 600, 3), 240, np.uint8))
    few = save(tmp_path / "few" / "a.png", np.full((64, 64, 3), 240, np.uint8)).parent
    broken = tmp_path / "broken" / "a.png"
    broken.parent.mkdir()
    broken.write_bytes(b"no picture")
    apart = tmp_path / "t.json"
    apart.write_text(json.dumps({"matrix": [[1, 0, 5000], [0, 1, 0]]}))
    sr, hr, mpp = pair["sr"], pair["hr"], ("--sr-mpp", 0.25, "--hr-mpp", 0.25)
    cases: tuple[tuple[tuple[object, ...], int, str], ...] = (
        ((sr, other, *mpp), 1, "do not show the same tissue"),
        ((sr, hr, *mpp, "--transform", apart), 1, "no area in common"),
        ((sr, hr, "--hr-mpp", 0.25), 2, "--sr-mpp"),
        ((sr, hr, "--sr-mpp", 0.25), 2, "--hr-mpp"),
        ((tmp_path / "absent.svs", hr), 1, "absent.svs"),
        ((few, tmp_path, "--tiles"), 2, " lacks a; tiles pair"),
        ((few, broken.parent, "--tiles"), 1, "broken/a.png is not a slide"),
        ((few, "--tiles"), 2, "--tiles"),
    )
    out = tmp_path / "out"
    for arguments, code, message in cases:
        monkeypatch.setattr(sys, "argv", ["wsisr", "eval", *map(str, arguments), "--out", str(out)])
        with pytest.raises(SystemExit) as stopped:
            run()
        error = capsys.readouterr().err.splitlines()[-1]
        assert stopped.value.code == code, error
        assert error.startswith("wsisr: ")
        assert message in error
        assert not out.exists()


@pytest.fixture
def folders(tiles: list[Image], tmp_path: Path) -> dict[str, Path]:
    for number, hr in enumerate(tiles):
        name = f"slide{number % 3}/tile{number}.png"
        save(tmp_path / "hr" / name, hr)
        save(tmp_path / "sr" / name, np.roll(hr, 1, axis=1))
    return {"sr": tmp_path / "sr", "hr": tmp_path / "hr"}


def test_folders_pair_by_name_and_resample_slides(folders: dict[str, Path]) -> None:
    result = evaluate(
        folders["sr"], folders["hr"], tiles=True, scale=4, metrics=("psnr", "lr_rmse")
    )
    assert set(result.methods) == {"sr", "bicubic"}
    assert {tile.location.group for tile in result.tiles} == {"slide0", "slide1", "slide2"}
    assert "over slides" in result.conventions["intervals"]


def test_unmatched_and_corrupt_tiles_are_named(folders: dict[str, Path], tmp_path: Path) -> None:
    chosen = {"tiles": True, "metrics": "psnr"}
    (folders["sr"] / "slide0" / "tile0.png").write_bytes(b"not a picture")
    result = evaluate(folders["sr"], folders["hr"], **chosen)
    assert list(result.failed) == ["slide0/tile0"]
    assert len(result.tiles) == 4
    (folders["sr"] / "slide1" / "tile1.png").unlink()
    with pytest.raises(UsageError, match=r"sr lacks slide1/tile1; tiles pair"):
        evaluate(folders["sr"], folders["hr"], **chosen)
    with pytest.raises(UsageError, match="not a folder"):
        evaluate(folders["sr"], tmp_path / "absent", **chosen)


def test_all_tiles_corrupt_is_an_error(tmp_path: Path) -> None:
    for side in ("sr", "hr"):
        (tmp_path / side).mkdir()
        (tmp_path / side / "a.png").write_bytes(b"no")
    with pytest.raises(SlideError, match="no tile of"):
        evaluate(tmp_path / "sr", tmp_path / "hr", tiles=True)


def test_a_tile_without_nuclei_is_counted_not_zeroed(tmp_path: Path, tiles: list[Image]) -> None:
    flat = np.full((512, 512, 3), (230, 190, 215), np.uint8)
    for side in ("sr", "hr"):
        save(tmp_path / side / "flat.png", flat)
        save(tmp_path / side / "cells.png", tiles[0])
    result = evaluate(
        tmp_path / "sr", tmp_path / "hr", tiles=True, metrics=("nuclei_recall", "l1_texture")
    )
    assert result.methods["sr"]["nuclei_recall"] == 1.0
    assert result.undefined["sr"] == {"nuclei_recall": 1, "l1_texture": 1}


def test_an_output_folder_that_cannot_be_made_is_an_error(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    chosen = {"tiles": True, "metrics": "psnr", "out": tmp_path / "file" / "out"}
    with pytest.raises(OutputError, match=r"^out "):
        evaluate(folders["sr"], folders["hr"], **chosen)


def test_arrays_are_measured_by_name(tiles: list[Image]) -> None:
    hr = tiles[0]
    lr = area_downsample(hr, 4)
    sr = bicubic_upsample(lr, 4)
    found = measure(sr, hr, lr, ("psnr", "lr_rmse", "nuclei_recall"))
    assert list(found) == ["psnr", "lr_rmse", "nuclei_recall"]
    assert found["psnr"] == psnr(sr, hr)
    assert 0 < found["nuclei_recall"] <= 1
    assert measure(sr, hr, metrics="psnr,ssim") == measure(sr, hr)
    # a group gives what the images allow
    alone = measure(sr, metrics=["offline"])
    assert {"sharpness", "mesh_share"} <= alone.keys()
    assert not {"psnr", "lr_rmse", "lpips"} & alone.keys()


def test_measures_that_cannot_run_say_why(
    tiles: list[Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(weights.WEIGHTS_VARIABLE, str(tmp_path))
    image = tiles[0]
    with pytest.raises(OptionError, match=r"^metrics nope: unknown measure; known: offline, all,"):
        measure(image, image, metrics=["nope"])
    with pytest.raises(OptionError, match=r"^metrics nope: unknown"):
        evaluate("sr", metrics="psnr,nope")
    with pytest.raises(OptionError, match="metrics psnr: needs a real high-resolution scan"):
        measure(image)
    with pytest.raises(OptionError, match="metrics lr_rmse: needs the low-resolution input"):
        measure(image, image, metrics=["lr_rmse"])
    with pytest.raises(ModelError, match=r"^lpips: weights missing: .*wsisr models fetch"):
        measure(image, image, metrics=["psnr", "lpips"])
    assert "lpips" not in measure(image, image, metrics=["all"])
    with pytest.raises(UsageError, match="crop or register them"):
        measure(image, image[:256])
    with pytest.raises(UsageError, match="type uint8"):
        measure(image / 255.0)


def test_tissue_is_judged_and_glass_and_ink_are_not(data_dir: Path, tmp_path: Path) -> None:
    with open_slide(data_dir / "slides" / "cmu-1-small-region.svs") as slide:
        pixels = slide.read(0, 0, 0, slide.width, slide.height)
        mpp = slide.mpp
        assert mpp is not None
        names = {at.name for at in SlidePairs(slide, mpp, tile_size=256).locations}
    shares = {
        f"x{x}_y{y}": (tile.max(axis=2) - tile.min(axis=2) > 20).mean()
        for y in range(0, pixels.shape[0] - 255, 256)
        for x in range(0, pixels.shape[1] - 255, 256)
        for tile in [pixels[y : y + 256, x : x + 256].astype(int)]
    }
    assert {name for name, stained in shares.items() if stained > LEAST_TISSUE} <= names
    assert min(shares[name] for name in names) > 0.25
    assert len(names) < len(shares) / 2
    ink = np.full((1024, 2048, 3), (243, 242, 244), np.uint8)
    ink[:, :1024] = pixels[1024:2048, 512:1536]
    ink[256:768, 1280:1792] = (20, 90, 60)
    with open_slide(save(tmp_path / "ink.png", ink)) as slide:
        locations = SlidePairs(slide, mpp, tile_size=128).locations
    assert locations
    assert max(at.x for at in locations) < 1024


def test_means_weigh_nuclei_and_skip_what_is_undefined() -> None:
    rows = [
        {"m": Measurement(1.0, 3)},
        {"m": Measurement(0.0, 1)},
        {"m": Measurement(math.nan, 9)},
    ]
    assert summarize(rows) == {"m": 0.75}
    results = [
        TileResult(Location(str(i), "s", 0, 0, 1, 1), {"a": row}) for i, row in enumerate(rows)
    ]
    intervals, unit = bootstrap(results, ["a"], seed=0)
    low, high = intervals["a"]["m"]
    assert unit == "tiles"
    assert 0.0 <= low <= 0.75 <= high <= 1.0
