from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from wsisr.slides import find_slides, slide_stem, slides_among

DICOM = "multi_frame_jpeg_camelyon_challenge_image.dcm"


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def found(folder: Path, **options: object) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_slides(folder, **options)]


def test_slides_are_known_by_their_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "b.SVS", "a.ndpi", "notes.txt", "sub/deep/c.ome.tif", "d.csv", "e.tif.partial")
    assert found(tmp_path) == ["a.ndpi", "b.SVS", "sub/deep/c.ome.tif"]


def test_hidden_and_excluded_folders_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a.svs", ".hidden.svs", ".trash/b.svs", "._a.svs", "out/c.svs", "kept/d.svs")
    assert found(tmp_path, without=[tmp_path / "out"]) == ["a.svs", "kept/d.svs"]


def test_files_of_a_slide_of_several_are_no_slides(tmp_path: Path) -> None:
    touch(tmp_path, "m.mrxs", "m/Slidedat.ini", "m/thumb.jpg", "v_0.jpg", "v_1.jpg", "own.jpg")
    (tmp_path / "v.vms").write_text("[Virtual]\nImageFile=v_0.jpg\nMapFile=v_1.jpg")
    assert found(tmp_path) == ["m.mrxs", "own.jpg", "v.vms"]


def test_a_zarr_is_one_slide_unless_it_is_unfinished(tmp_path: Path) -> None:
    touch(tmp_path, "a.ome.zarr/.zattrs", "a.ome.zarr/0/0.png", "b.zarr/zarr.json")
    touch(tmp_path, "c.ome.zarr.partial/.zgroup", "c.ome.zarr.partial/0.png")
    assert found(tmp_path) == ["a.ome.zarr", "b.zarr"]
    assert find_slides(tmp_path / "b.zarr") == [tmp_path / "b.zarr"]


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    touch(tmp_path, "sub/a.svs")
    (tmp_path / "sub/again").symlink_to(tmp_path, target_is_directory=True)
    assert found(tmp_path) == ["sub/a.svs"]


def test_dicom_is_grouped_by_series(data_dir: Path, tmp_path: Path) -> None:
    for name in ("one/x.dcm", "one/y.dcm", "two/x.dcm", "two/other.svs"):
        touch(tmp_path, name)
        if name.endswith(".dcm"):
            shutil.copy(data_dir / "slides" / DICOM, tmp_path / name)
    # two files of one series are a slide, which its folder stands for
    assert found(tmp_path) == ["one", "two/other.svs", "two/x.dcm"]
    assert slides_among(list((tmp_path / "one").iterdir())) == [tmp_path / "one"]


def test_broken_dicom_stands_for_itself(tmp_path: Path) -> None:
    touch(tmp_path, "s/a.dcm", "s/b.dcm")
    assert found(tmp_path) == ["s/a.dcm", "s/b.dcm"]


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a.svs", "a"),
        ("A.B.OME.TIFF", "A.B"),
        ("x.ome.zarr", "x"),
        ("2024-05-01 10.12.33.ndpi", "2024-05-01 10.12.33"),
        ("folder.of.dicom", "folder.of.dicom"),
        (".ome.tif", ".ome"),
    ],
)
def test_the_stem_loses_the_format_alone(name: str, stem: str) -> None:
    assert slide_stem(name) == stem
