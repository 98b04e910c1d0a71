"""Nothing of the user's is replaced, and nothing that makes pixels is taken on trust."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from torch import Tensor

from tests.engine.support import job, level0, tissue_like
from wsisr.engine import check_outputs, preparation, upscale
from wsisr.engine.band import parts_folder, remove_parts
from wsisr.engine.runner import Runner
from wsisr.errors import ExistsError, ModelError, UsageError, WsisrError
from wsisr.models import Bicubic, WindowInput
from wsisr.tissue import is_own_mask


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def as_output(slide: Path) -> Path:
    """The slide as an OME-TIFF of wsisr, so that nothing but the input's being one protects it."""
    made = Path(upscale(job(slide, scale=2, overwrite=True)).output)
    return made.rename(made.with_name("made.ome.tif"))


def linked(source: Path, kind: str) -> Path:
    folder = source.parent
    if kind == "link":
        (folder / "link.ome.tif").symlink_to(source)
        return folder / "link.ome.tif"
    if kind == "hard link":
        (folder / "hard.ome.tif").hardlink_to(source)
        return folder / "hard.ome.tif"
    if kind == "linked folder":
        (folder / "elsewhere").symlink_to(folder)
        return folder / "elsewhere" / source.name
    if kind == "relative":
        return Path(os.path.relpath(source))
    if kind == "dots":
        (folder / "sub").mkdir()
        return folder / "sub" / ".." / source.name
    return source


@pytest.mark.parametrize(
    "kind", ["itself", "link", "hard link", "linked folder", "relative", "dots"]
)
def test_the_input_is_never_replaced(kind: str, slide: Path) -> None:
    source = as_output(slide)
    output = linked(source, kind)
    before = contents(slide.parent)
    with pytest.raises(UsageError, match="which is read"):
        upscale(job(source, output=output, input_mpp=None, scale=2, overwrite=True, force=True))
    assert contents(slide.parent) == before


@pytest.mark.parametrize("suffix", [".partial", ".journal", ".pieces", ".lock", ".replaced"])
def test_no_input_bears_the_name_of_a_file_on_the_way(suffix: str, slide: Path) -> None:
    source = slide.rename(slide.with_name(f"out.ome.tif{suffix}"))
    before = contents(slide.parent)
    with pytest.raises(UsageError, match="which is read"):
        upscale(job(source, overwrite=True))
    assert contents(slide.parent) == before


def test_neither_map_nor_mask_is_an_input(slide: Path) -> None:
    source = as_output(slide).rename(slide.with_name("x.uncertainty.ome.tif"))
    before = contents(slide.parent)
    changes = {"output": slide.with_name("x.ome.tif"), "uncertainty": 2, "overwrite": True}
    with pytest.raises(UsageError, match="which is read"):
        check_outputs(job(source, **changes))
    with pytest.raises(UsageError, match="which is read"):
        upscale(job(source, tissue_out=source, overwrite=True))
    mask = slide.with_name("drawn.geojson")
    mask.write_text('{"type": "FeatureCollection", "features": []}')
    with pytest.raises(UsageError, match="which is read"):
        upscale(job(slide, tissue=str(mask), tissue_out=mask, overwrite=True))
    with pytest.raises(UsageError, match="choose another name"):
        upscale(job(slide, tissue_out=slide.with_name("out.ome.tif"), overwrite=True))
    mask.unlink()
    assert contents(slide.parent) == before


def test_an_output_inside_a_slide_that_is_a_folder_is_refused(slide: Path) -> None:
    zarr = slide.with_name("in.ome.zarr")
    upscale(job(slide, output=zarr, scale=2))
    before = contents(slide.parent)
    for output in (zarr / "out.ome.tif", zarr / "0" / "out.ome.zarr", zarr):
        with pytest.raises(UsageError, match="which is read"):
            upscale(job(zarr, input_mpp=None, output=output, overwrite=True, force=True))
    assert contents(slide.parent) == before


def test_an_annotation_file_is_not_the_place_of_a_mask(slide: Path) -> None:
    drawn = slide.with_name("drawn.geojson")
    text = '{"type": "FeatureCollection", "features": []}'
    drawn.write_text(text)
    for overwrite in (False, True):
        with pytest.raises(WsisrError, match=r"drawn\.geojson"):
            upscale(job(slide, tissue_out=drawn, overwrite=overwrite))
        assert drawn.read_text() == text
        assert sorted(path.name for path in slide.parent.iterdir()) == ["drawn.geojson", "in.tif"]


def test_an_older_mask_is_replaced_where_that_is_allowed(slide: Path) -> None:
    mask = slide.with_name("mask.geojson")
    upscale(job(slide, tissue_out=mask))
    assert is_own_mask(mask)
    assert json.loads(mask.read_text())["features"]
    first = mask.read_bytes()
    # the same mask again, as an interrupted run meets it
    slide.with_name("out.ome.tif").unlink()
    upscale(job(slide, tissue_out=mask))
    half = slide.with_name("other.png")
    Image.fromarray(np.repeat([[0, 255]], 55, axis=0).astype(np.uint8)).resize((150, 110)).save(
        half
    )
    other = {"tissue": str(half), "tissue_out": mask, "output": slide.with_name("b.ome.tif")}
    with pytest.raises(ExistsError, match=r"mask\.geojson exists"):
        upscale(job(slide, **other))
    assert mask.read_bytes() == first
    assert not list(slide.parent.glob("b.*"))
    upscale(job(slide, **other, overwrite=True))
    assert mask.read_bytes() != first


@pytest.mark.parametrize("suffix", [".ome.tif", ".ome.zarr"])
@pytest.mark.parametrize("beside", [".partial", ".journal", ".pieces", ".lock", ".replaced"])
@pytest.mark.parametrize("what", ["link", "file", "folder"])
def test_what_lies_in_the_way_is_left_alone(
    suffix: str, beside: str, what: str, slide: Path
) -> None:
    folder = slide.parent / "kept"
    folder.mkdir()
    (folder / "notes.txt").write_text("of great value")
    place = slide.parent / f"out{suffix}{beside}"
    if what == "link":
        place.symlink_to(folder / "notes.txt")
    elif what == "file":
        shutil.copy(folder / "notes.txt", place)
    else:
        shutil.copytree(folder, place)
    before = contents(slide.parent)
    for overwrite in (False, True):
        with pytest.raises(UsageError, match=r"symbolic link|not made by wsisr"):
            upscale(job(slide, output=slide.parent / f"out{suffix}", overwrite=overwrite))
    assert contents(slide.parent) == before


@pytest.mark.parametrize("suffix", [".ome.tif", ".ome.zarr"])
@pytest.mark.parametrize("what", ["another's", "folder", "dangling"])
def test_only_outputs_of_wsisr_are_replaced(suffix: str, what: str, slide: Path) -> None:
    out = slide.parent / f"out{suffix}"
    if what == "another's":
        tifffile.imwrite(out, tissue_like(64, 64), photometric="rgb", tile=(64, 64))
    elif what == "folder":
        out.mkdir()
        (out / "zarr.json").write_text("{}")
    else:
        out.symlink_to(slide.parent / "nowhere")
    before = contents(slide.parent)
    with pytest.raises(UsageError, match="not made by wsisr"):
        upscale(job(slide, output=out, overwrite=True))
    assert contents(slide.parent) == before
    assert os.path.lexists(out)


def test_a_folder_may_bear_the_name_of_a_model(
    slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(slide.parent)
    Path("bicubic").mkdir()
    for overwrite in (False, True):
        upscale(job(slide, output=Path("bicubic/out.ome.tif"), overwrite=overwrite))


def test_weights_are_never_replaced(slide: Path, model_folder: Path) -> None:
    mask = next(model_folder.rglob("*.safetensors"))
    before = contents(model_folder)
    with pytest.raises(UsageError, match="which is read"):
        upscale(job(slide, model=str(model_folder), tissue_out=mask, overwrite=True))
    assert contents(model_folder) == before


def test_a_folder_of_parts_with_more_in_it_stays(tmp_path: Path) -> None:
    folder = parts_folder(tmp_path / "out.ome.tif")
    folder.mkdir()
    (folder / "0-4.ome.tif.partial").write_bytes(b"")
    (folder / "thesis.docx").write_bytes(b"x")
    with pytest.raises(UsageError, match="not made by wsisr"):
        remove_parts(tmp_path / "out.ome.tif")
    (folder / "thesis.docx").unlink()
    remove_parts(tmp_path / "out.ome.tif")
    assert not folder.exists()


class Short(Bicubic):
    """A model that has no memory left after some windows."""

    def __init__(self, windows: int) -> None:
        super().__init__()
        self.left = windows

    def __call__(self, windows: Sequence[WindowInput]) -> Tensor:
        self.left -= len(windows)
        if self.left < 0:
            raise MemoryError
        return super().__call__(windows)


def run_short(slide: Path, monkeypatch: pytest.MonkeyPatch, windows: int) -> None:
    """A run that ends for want of memory when so many windows are made."""
    with monkeypatch.context() as patch:
        patch.setattr(Runner, "__init__", one_at_a_time(Runner.__init__))
        patch.setattr("wsisr.models.load_upscaler", lambda *a, **k: Short(windows))
        with pytest.raises(ModelError, match="not enough memory"):
            upscale(job(slide, tissue="off", tile=64))


def one_at_a_time(begin: Callable[..., None]) -> Callable[..., None]:
    return lambda self, model, device, batch: begin(self, model, device, 1)


def test_a_shortage_of_memory_costs_no_work(slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = job(slide, tissue="off", tile=64, output=slide.with_name("whole.ome.tif"))
    upscale(whole)
    run_short(slide, monkeypatch, 10)
    kept = slide.with_name("out.ome.tif.partial").stat().st_size
    # another shortage at once, before anything is made, costs nothing either
    run_short(slide, monkeypatch, 0)
    assert slide.with_name("out.ome.tif.partial").stat().st_size >= kept
    result = upscale(job(slide, tissue="off", tile=64))
    assert result.resumed_tiles > 0
    np.testing.assert_array_equal(level0(Path(result.output)), level0(whole.output))


def test_a_shortage_before_the_first_tile_leaves_nothing(
    slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_short(slide, monkeypatch, 0)
    assert [path.name for path in slide.parent.iterdir()] == ["in.tif"]


def test_a_resume_needs_the_same_mask_and_machine(
    slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = slide.with_name("mask.png")
    most = np.full((110, 150), 255, np.uint8)
    most[:, -60:] = 0
    Image.fromarray(most).save(mask)
    asked = job(slide, tissue=str(mask), tile=64)
    with monkeypatch.context() as patch:
        patch.setattr(Runner, "__init__", one_at_a_time(Runner.__init__))
        patch.setattr("wsisr.models.load_upscaler", lambda *a, **k: Short(10))
        with pytest.raises(ModelError):
            upscale(asked)
    drawn = mask.read_bytes()
    Image.fromarray(np.eye(150, dtype=np.uint8)[:110] * 255).save(mask)
    with pytest.raises(UsageError, match=r"tissue\.sha256"):
        upscale(asked)
    mask.write_bytes(drawn)
    for device, told in (
        ({"device": "cpu", "instructions": "x86_64 ALTIVEC"}, r"machine\.instructions.*ALTIVEC"),
        ({"device": "cuda"}, r'machine\.device "cpu", now "cuda"'),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(preparation, "describe_machine", lambda _, it=device: it)
            with pytest.raises(UsageError, match=told):
                upscale(asked)
    assert str(slide.parent) not in json.dumps(preparation.prepare(asked).image.provenance)
    assert upscale(asked).resumed_tiles > 0
