from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from train.data import load_tiles
from train.patches import Settings, Source, curate, plan_sources
from wsisr.errors import SlideError, UsageError


def test_a_patient_in_two_splits_is_refused() -> None:
    rows = [
        {"slide": "a.svs", "patient": "p", "split": "train"},
        {"slide": "b.svs", "patient": "p", "split": "val"},
    ]
    with pytest.raises(UsageError, match="patient p is in train and val"):
        plan_sources([Path("a.svs"), Path("b.svs")], rows, 0)


def test_patients_without_a_split_stay_together() -> None:
    slides = [Path(f"TCGA-AA-{p:04d}-01Z-{s}.svs") for p in range(20) for s in "ab"]
    sources = plan_sources(slides, None, 0)
    assert sources == plan_sources(slides, None, 0)
    by_patient = {(s.patient, s.split) for s in sources}
    assert len(by_patient) == 20
    assert sorted(split for _, split in by_patient).count("train") == 16


@pytest.mark.parametrize("mpp", ["0,25", "fine", "-1", "nan", "inf", "0"])
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
    assert not caplog.text


def tree(folder: Path) -> dict[str, str]:
    return {
        str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in folder.rglob("*")
        if f.is_file()
    }


def test_patches_of_a_real_slide_resume_to_the_same_bytes(data_dir: Path, tmp_path: Path) -> None:
    slides = data_dir / "slides"
    settings = Settings(size=256, per_slide=20)
    sources = [Source(slides / "test_b_40x.tif", "p", "train", 0.2528)]
    assert curate(sources, tmp_path / "a", settings)["train"] == 20
    loaded = load_tiles(tmp_path / "a" / "train")
    assert loaded.pixels.shape == (20, 256, 256, 3)
    assert loaded.slides == ("test_b_40x",)
    before = tree(tmp_path / "a")
    (tmp_path / "a" / "train" / "test_b_40x.patches.csv").unlink()
    curate(sources, tmp_path / "a", settings)
    assert tree(tmp_path / "a") == before


def test_a_coarse_slide_and_one_without_resolution_are_refused(
    data_dir: Path, tmp_path: Path
) -> None:
    for name, reason in (
        ("cmu-1-small-region.svs", "coarser than the 0.25 wanted"),
        ("tcga-cr-7395-01a-01-ts1.svs", "states no resolution|coarser"),
    ):
        with pytest.raises(SlideError, match=reason):
            curate([Source(data_dir / "slides" / name, "p", "train")], tmp_path, Settings())


def test_glass_alone_is_refused(tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    file = tmp_path / "glass.png"
    Image.fromarray(np.full((1024, 1024, 3), 240, np.uint8)).save(file)
    with pytest.raises(SlideError, match="holds 50% tissue"):
        curate([Source(file, "p", "train", 0.25)], tmp_path / "out", Settings())
