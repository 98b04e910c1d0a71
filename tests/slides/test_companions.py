"""All files of a slide count, whichever it is opened by."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from wsisr.slides import companions, slide_digests, slide_files

DICOM = "multi_frame_jpeg_camelyon_challenge_image.dcm"


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"content of {name}")


def names(path: Path) -> list[str]:
    return [each.relative_to(path.parent).as_posix() for each in slide_files(path)]


def test_mirax(tmp_path: Path) -> None:
    make(tmp_path, "a.mrxs", "a/Slidedat.ini", "a/Data0.dat", "b.mrxs", "b/Data0.dat", "c.txt")
    assert names(tmp_path / "a.mrxs") == ["a/Data0.dat", "a/Slidedat.ini", "a.mrxs"]


def test_hamamatsu(tmp_path: Path) -> None:
    make(tmp_path, "v_0.jpg", "v_1.jpg", "v.opt", "other.jpg")
    (tmp_path / "v.vms").write_text("[Virtual]\nImageFile=v_0.jpg\nMapFile=v_1.jpg\nOpt=v.opt")
    assert names(tmp_path / "v.vms") == ["v.opt", "v.vms", "v_0.jpg", "v_1.jpg"]


def test_dicom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> None:
    for name in ("a.dcm", "b", "c.dcm"):
        shutil.copy(data_dir / "slides" / DICOM, tmp_path / name)
    make(tmp_path, "notes.txt")
    series = {"a.dcm": "1", "b": "1", "c.dcm": "2"}
    monkeypatch.setattr(companions, "_series", lambda path: series[path.name])
    assert names(tmp_path / "a.dcm") == ["a.dcm", "b"]


def test_every_change_of_any_file_is_seen(tmp_path: Path) -> None:
    make(tmp_path, "a.mrxs", "a/Data0.dat", "a/Data1.dat")
    seen = [slide_digests(tmp_path / "a.mrxs")]
    assert set(seen[0]["files"]) == {"a.mrxs", "a/Data0.dat", "a/Data1.dat"}
    (tmp_path / "a" / "Data1.dat").write_text("other")
    seen.append(slide_digests(tmp_path / "a.mrxs"))
    (tmp_path / "a" / "Data1.dat").rename(tmp_path / "a" / "Data2.dat")
    seen.append(slide_digests(tmp_path / "a.mrxs"))
    (tmp_path / "a" / "Data2.dat").unlink()
    seen.append(slide_digests(tmp_path / "a.mrxs"))
    assert len({each["sha256"] for each in seen}) == 4


def test_chunks_that_change_places_are_seen(tmp_path: Path) -> None:
    make(tmp_path, "z/0/0", "z/0/1")
    before = slide_digests(tmp_path / "z")["sha256"]
    (tmp_path / "z" / "0" / "1").rename(tmp_path / "z" / "0" / "2")
    assert slide_digests(tmp_path / "z")["sha256"] != before


def test_one_file_has_its_own_digest(tmp_path: Path) -> None:
    make(tmp_path, "a.svs")
    assert set(slide_digests(tmp_path / "a.svs")) == {"sha256"}
