from __future__ import annotations

import csv
import hashlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from train.data.manifest import SourceSlide, plan_sources, read_manifest
from train.data.patches import (
    PatchSettings,
    curate,
    known_patients,
    main,
    read_record,
    view_at,
)
from train.data.tiles import load_tiles
from train.errors import DataError
from train.loop.folder import lock_folder
from wsisr.errors import SlideError, UsageError
from wsisr.slides import open_slide, select_view


def test_a_patient_in_two_splits_is_refused() -> None:
    rows = [
        {"slide": "a.svs", "patient": "p", "split": "train"},
        {"slide": "b.svs", "patient": "p", "split": "val"},
    ]
    with pytest.raises(UsageError, match="patient p is in train and val"):
        plan_sources([Path("a.svs"), Path("b.svs")], rows, 0)


def test_what_would_let_a_patient_into_two_splits_unseen_is_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = [
        {"slide": "a.svs ", "patient": "p ", "split": "train"},
        {"slide": "b.svs", "patient": "p", "split": "val", "note": "x"},
    ]
    with pytest.raises(UsageError, match="patient p is in train and val"):
        plan_sources([Path("a.svs"), Path("b.svs")], rows, 0)
    with pytest.raises(UsageError, match=r"b\.svs has two lines"):
        plan_sources([Path("b.svs")], [*rows, {"slide": "b.svs", "patient": "q"}], 0)
    with pytest.raises(UsageError, match=r"a\.tif .*another slide is called a"):
        plan_sources([Path("a.tif"), Path("a.tiff")], None, 0)
    with pytest.raises(UsageError, match="patient p is in test and train"):
        plan_sources([Path("a.svs")], rows[:1], 0, {"p": "test"})
    assert plan_sources([Path("c.svs")], None, 0, {"c": "test"})[0].split == "test"
    caplog.clear()
    plan_sources([Path(f"case1_{i}.svs") for i in range(3)], None, 0)
    assert "3 slides name no patient (case1_0.svs" in caplog.text


def test_patients_without_a_split_stay_together() -> None:
    slides = [Path(f"TCGA-AA-{p:04d}-01Z-{s}.svs") for p in range(20) for s in "ab"]
    sources = plan_sources(slides, None, 0)
    assert sources == plan_sources(slides, None, 0)
    by_patient = {(s.patient, s.split) for s in sources}
    assert len(by_patient) == 20
    assert sorted(split for _, split in by_patient).count("train") == 16


@pytest.mark.parametrize("mpp", ["0,25", "fine", "-1", "nan", "inf", "0", "0.009", "250"])
def test_an_mpp_that_is_none_is_refused(mpp: str) -> None:
    rows = [{"slide": "a.svs", "patient": "p", "split": "train", "mpp": mpp}]
    with pytest.raises(UsageError, match=r"a\.svs: the manifest's mpp .* um/px"):
        plan_sources([Path("a.svs")], rows, 0)


def test_too_few_patients_to_share_out_are_told(caplog: pytest.LogCaptureFixture) -> None:
    sources = plan_sources([Path("a.svs"), Path("b.svs")], None, 0)
    assert {s.split for s in sources} == {"train"}
    assert "2 patients without a split" in caplog.text
    caplog.clear()
    plan_sources([Path(f"{name}.svs") for name in "abc"], None, 0)
    assert "too few" not in caplog.text


def tree(folder: Path) -> dict[str, str]:
    return {
        str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in folder.rglob("*")
        if f.is_file()
    }


def test_patches_of_a_real_slide_resume_to_the_same_bytes(data_dir: Path, tmp_path: Path) -> None:
    slides = data_dir / "slides"
    settings = PatchSettings(size=256, per_slide=20)
    sources = [SourceSlide(slides / "test_b_40x.tif", "p", "train", 0.2528)]
    assert curate(sources, tmp_path / "a", settings)["train"] == 20
    loaded = load_tiles(tmp_path / "a" / "train")
    assert loaded.pixels.shape == (20, 256, 256, 3)
    assert loaded.slides == ("test_b_40x",)
    before = tree(tmp_path / "a")
    (tmp_path / "a" / "train" / "test_b_40x.patches.csv").unlink()
    curate(sources, tmp_path / "a", settings)
    assert tree(tmp_path / "a") == before


def test_slides_may_be_added_and_left_out_but_not_change(data_dir: Path, tmp_path: Path) -> None:
    slides = data_dir / "slides"
    glass = tmp_path / "glass.png"
    Image.fromarray(np.full((1024, 1024, 3), 240, np.uint8)).save(glass)
    settings = PatchSettings(size=256, per_slide=4)
    first = SourceSlide(slides / "test_b_40x.tif", "p", "train", 0.2528)
    other = SourceSlide(slides / "test_a_40x.tif", "q", "val", 0.25)
    out = tmp_path / "out"
    with pytest.raises(SlideError, match=r"glass\.png: no 256x256 px patch"):
        curate([first, SourceSlide(glass, "r", "train", 0.25)], out, settings)
    before = tree(out / "train")
    assert curate([first], out, settings) == {"train": 4, "val": 0, "test": 0}
    assert curate([first, other], out, settings)["val"] == 4
    assert tree(out / "train") == before
    assert known_patients(read_record(out)) == {"p": "train", "q": "val", "r": "train"}
    for changed in (replace(first, patient="s"), replace(first, split="val", patient="s")):
        with pytest.raises(DataError, match=r"test_b_40x\.tif with another patient"):
            curate([changed], out, settings)
    with pytest.raises(DataError, match="other settings"):
        curate([first], out, replace(settings, size=512))
    with pytest.raises(DataError, match=r"test_b_40x\.svs would be taken for test_b_40x\.tif"):
        curate([replace(other, path=Path("test_b_40x.svs"))], out, settings)


def test_patches_out_of_focus_are_dropped(data_dir: Path, tmp_path: Path) -> None:
    with open_slide(data_dir / "slides" / "test_b_40x.tif") as slide:
        view = select_view(slide, input_mpp=0.25, level=0)
        pixels = view.read(0, 0, view.width, view.height)
    pixels[:, : view.width // 2] = cv2.GaussianBlur(pixels, (0, 0), 6)[:, : view.width // 2]
    file = tmp_path / "half.png"
    Image.fromarray(pixels).save(file)
    settings = PatchSettings(size=256, blur=0.0)
    assert curate([SourceSlide(file, "p", "train", 0.25)], tmp_path / "out", settings)["train"] > 20
    with (tmp_path / "out" / "train" / "half.patches.csv").open(newline="") as table:
        lefts = [int(row["x"]) for row in csv.DictReader(table)]
    assert min(lefts) > view.width // 2 - 256
    everything = replace(settings, focus=0.0)
    assert (
        curate([SourceSlide(file, "p", "train", 0.25)], tmp_path / "all", everything)["train"] > 40
    )


def test_a_coarse_slide_and_one_without_resolution_are_refused(
    data_dir: Path, tmp_path: Path
) -> None:
    for name, reason in (
        ("cmu-1-small-region.svs", "coarser than the 0.25 wanted"),
        ("tcga-cr-7395-01a-01-ts1.svs", "states no resolution|coarser"),
    ):
        with pytest.raises(SlideError, match=reason):
            curate(
                [SourceSlide(data_dir / "slides" / name, "p", "train")], tmp_path, PatchSettings()
            )


def test_glass_alone_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "glass.png"
    Image.fromarray(np.full((1024, 1024, 3), 240, np.uint8)).save(file)
    with pytest.raises(SlideError, match=r"holds 50% tissue; leave the slide out, or cut all"):
        curate([SourceSlide(file, "p", "train", 0.25)], tmp_path / "out", PatchSettings())


def test_a_slide_whose_shards_are_gone_is_cut_again(
    data_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sources = [SourceSlide(data_dir / "slides" / "test_b_40x.tif", "p", "train", 0.2528)]
    settings = PatchSettings(size=256, per_slide=4)
    curate(sources, tmp_path, settings)
    before = tree(tmp_path)
    for name in ("test_b_40x-0000.tar", "test_b_40x-0000.csv"):
        caplog.clear()
        (tmp_path / "train" / name).unlink()
        assert curate(sources, tmp_path, settings)["train"] == 4
        assert tree(tmp_path) == before
        assert "test_b_40x.tif: shards are missing or damaged" in caplog.text
    caplog.clear()
    curate(sources, tmp_path, settings)
    assert not caplog.text


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("size", 15),
        ("mpp", float("nan")),
        ("mpp", float("inf")),
        ("tolerance", 1.0),
        ("tissue", 1.1),
        ("per_slide", 0),
        ("focus", -1.0),
        ("blur", 1.0),
        ("pen", -0.1),
        ("quality", 101),
        ("seed", -1),
    ],
)
def test_a_setting_out_of_its_range_is_one_line(
    option: str, value: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"--{option.replace('_', '-')}"
    assert main(["a.svs", "--out", str(tmp_path / "out"), f"{name}={value}"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {name} {value}: must be ")
    assert not (tmp_path / "out").exists()


def test_a_resolution_that_no_slide_has_is_refused(data_dir: Path) -> None:
    file = data_dir / "slides" / "test_b_40x.tif"
    with open_slide(file) as slide:
        view = select_view(slide, level=0, input_mpp=0.25)
        for mpp in (0.001, 254.0):
            with pytest.raises(SlideError, match=f"states {mpp:g} um/px.*in the manifest"):
                view_at(SourceSlide(file, "p", "train"), replace(view, mpp=mpp), PatchSettings())


def test_a_manifest_of_a_spreadsheet_is_read_or_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "slides.csv"
    file.write_text("slide, patient\na.svs,p\n", encoding="utf-8-sig")
    assert plan_sources([Path("a.svs")], read_manifest(file), 0)[0].patient == "p"
    for text, lacking in (
        ("slide;patient\na.svs;p\n", "slide and patient"),
        ("slide,split\na.svs,val\n", "patient"),
        ("", "slide and patient"),
    ):
        file.write_text(text)
        with pytest.raises(UsageError, match=f"lacks the column {lacking}; .*by commas"):
            read_manifest(file)
    file.write_text("slide,patient\n", encoding="utf-16")
    with pytest.raises(UsageError, match="give a CSV in UTF-8"):
        read_manifest(file)


def test_what_stops_the_command_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["a.svs", "--out", str(out)]
    with lock_folder(out):
        assert main(arguments) == 2
    assert "another process works in" in capsys.readouterr().err

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("train.data.patches.curate", interrupt)
    assert main(arguments) == 130
    assert "give the same command again" in capsys.readouterr().err
    assert main(["a.svs", "--out", str(out / ".lock")]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {out / '.lock'} cannot be written")
    assert error.count("\n") == 1
