from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.engine.support import job, level0, tissue_like
from wsisr.engine.array import upscale_image
from wsisr.engine.blend import CellBlender
from wsisr.engine.executor import InProcess
from wsisr.engine.job import Job
from wsisr.engine.preparation import prepare
from wsisr.engine.resume import Missing, fingerprint
from wsisr.engine.run import upscale
from wsisr.errors import ModelError, OutputError, SlideError, UsageError
from wsisr.models import Upscaler, load_upscaler
from wsisr.plan import Plan, Rect, Window
from wsisr.progress import State


def bicubic(image: np.ndarray, scale: int) -> np.ndarray:
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    up = torch.nn.functional.interpolate(tensor, scale_factor=scale, mode="bicubic")
    return (up.clamp(0, 255) + 0.5).floor()[0].permute(1, 2, 0).to(torch.uint8).numpy()


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_tiles_blend_to_the_bicubic_of_the_whole(slide: Path, scale: int) -> None:
    result = upscale(job(slide, scale=scale, force=True))
    pixels = level0(Path(result.output))
    expected = bicubic(tifffile.imread(slide), scale)
    assert pixels.shape == expected.shape == (result.height, result.width, 3)
    # rounding of 1e-6 either side of a half
    assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_the_output_says_what_it_is(slide: Path) -> None:
    result = upscale(job(slide, compression="jpeg"))
    assert (result.width, result.height, result.levels) == (600, 440, 2)
    assert result.mpp == pytest.approx(0.25)
    assert result.magnification == 40
    assert result.peak_rss_mb > 0
    assert {"blending", "encoding", "model", "reading"} <= set(result.seconds_by_stage)
    with openslide.OpenSlide(result.output) as opened:
        assert float(opened.properties[openslide.PROPERTY_NAME_MPP_X]) == pytest.approx(0.25)
    with tifffile.TiffFile(result.output) as tiff:
        assert tiff.is_ome
        assert [level.shape[:2] for level in tiff.series[0].levels] == [(440, 600), (220, 300)]
        xml = tiff.ome_metadata
    assert xml is not None
    assert 'NominalMagnification="40' in xml
    assert "not for primary diagnosis" in xml


def test_hash_is_over_the_pixels_before_coding(slide: Path) -> None:
    import hashlib

    lossless = upscale(job(slide))
    assert hashlib.sha256(level0(Path(lossless.output)).tobytes()).hexdigest() == (
        lossless.sha256_pixels
    )
    lossy = upscale(job(slide, compression="jpeg", overwrite=True))
    assert lossy.sha256_pixels == lossless.sha256_pixels


@pytest.mark.parametrize("batch", [1, 3])
def test_a_region_is_a_crop_of_the_whole(slide: Path, model_folder: Path, batch: int) -> None:
    options = {"model": str(model_folder), "tissue": "off", "batch": batch}
    whole = level0(Path(upscale(job(slide, **options)).output))
    region = Rect(37, 29, 50, 41)
    part = upscale(job(slide, region=region, output=slide.with_name("part.ome.tif"), **options))
    crop = whole[29 * 4 : 70 * 4, 37 * 4 : 87 * 4]
    np.testing.assert_array_equal(level0(Path(part.output)), crop)


def test_same_pixels_whatever_the_queue_does(slide: Path, model_folder: Path) -> None:
    options = {"model": str(model_folder), "tissue": "off", "overwrite": True}
    hashes = {upscale(job(slide, batch=2, **options)).sha256_pixels for _ in range(3)}
    assert len(hashes) == 1


def test_seed_matters_and_fidelity_one_does_not_see_it(
    slide: Path,
    model_folder: Path,
) -> None:
    def run(**changes: object) -> str:
        options = {"model": str(model_folder), "tissue": "off", "overwrite": True}
        return upscale(job(slide, settings=changes, **options)).sha256_pixels

    assert run(seed=0) != run(seed=1)
    assert run(seed=0, fidelity=1.0) == run(seed=1, fidelity=1.0)


@settings(
    deadline=None,
    max_examples=12,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(w=st.integers(1, 90), h=st.integers(1, 90), scale=st.sampled_from([2, 3, 8, 2.5]))
def test_any_size(tmp_path_factory: pytest.TempPathFactory, w: int, h: int, scale: float) -> None:
    folder = tmp_path_factory.mktemp("size")
    Image.fromarray(tissue_like(w, h)).save(folder / "in.png")
    result = upscale(job(folder / "in.png", scale=scale, input_mpp=2.0))
    assert (result.width, result.height) == (max(1, round(w * scale)), max(1, round(h * scale)))
    assert level0(Path(result.output)).reshape(result.height, result.width, 3).any()


def test_glass_never_meets_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.full((400, 400, 3), 243, np.uint8)
    image[100:180, 100:180] = tissue_like(80, 80)
    Image.fromarray(image).save(tmp_path / "in.png")
    seen = []
    load = load_upscaler

    def spy(*args: object, **kwargs: object) -> object:
        model = load(*args, **kwargs)
        call = type(model).__call__

        class Spy(type(model)):  # type: ignore[misc]
            def __call__(self, windows: object) -> torch.Tensor:
                seen.append(len(windows))  # type: ignore[arg-type]
                return call(self, windows)

        return Spy()

    monkeypatch.setattr("wsisr.models.load_upscaler", spy)
    result = upscale(job(tmp_path / "in.png", tissue="auto"))
    assert sum(seen) == result.tissue_windows
    assert 0 < result.tissue_windows < result.windows / 2
    pixels = level0(Path(result.output))
    assert (pixels[1200:, 1200:] == 243).all()
    assert np.abs(pixels.astype(int) - bicubic(image, 4)).max() <= 1


def broken_model(folder: Path, name: str) -> Path:
    card = json.loads((folder / "model.json").read_text())
    if name == "no part":
        (folder / "unet" / "config.json").unlink()
    elif name == "no weights":
        next((folder / "vae").glob("*.safetensors")).unlink()
    elif name == "pickle":
        file = next((folder / "vae").glob("*.safetensors"))
        file.rename(file.with_suffix(".bin"))
    elif name == "shape":
        config = json.loads((folder / "restoration" / "config.json").read_text())
        config["embed_dim"] = 16
        (folder / "restoration" / "config.json").write_text(json.dumps(config))
    elif name == "class":
        card["parts"]["unet"] = "os.system"
    elif name == "half a second stage":
        del card["parts"]["controlnet"]
    elif name == "version":
        card["version"] = 99
    elif name == "setting":
        card["sampling"]["speed"] = 11
    elif name == "torn":
        file = next((folder / "unet").glob("*.safetensors"))
        file.write_bytes(file.read_bytes()[:1000])
    elif name == "nan":
        from safetensors.torch import load_file, save_file

        file = next((folder / "unet").glob("*.safetensors"))
        state = load_file(file)
        state["conv_in.weight"][0, 0, 0, 0] = float("nan")
        save_file(state, file)
    (folder / "model.json").write_text(json.dumps(card))
    return folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no part", "part missing"),
        ("no weights", "no \\*.safetensors"),
        ("pickle", "pickled weights are refused"),
        ("shape", "has shape"),
        ("class", "os.system"),
        ("half a second stage", "lacks controlnet"),
        ("version", "version 99"),
        ("setting", "unknown setting speed"),
        ("torn", "not a readable safetensors"),
        ("nan", "not finite"),
    ],
)
def test_broken_models_leave_nothing(
    slide: Path,
    model_folder: Path,
    name: str,
    message: str,
) -> None:
    before = sorted(slide.parent.iterdir())
    with pytest.raises(ModelError, match=message):
        upscale(job(slide, model=str(broken_model(model_folder, name))))
    assert sorted(slide.parent.iterdir()) == before


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"scale": 1.0}, UsageError, "greater than 1"),
        ({"scale": 0.5}, UsageError, "greater than 1"),
        ({"scale": 16.0}, UsageError, "force"),
        ({"scale": None, "input_mpp": 0.25}, UsageError, "40x"),
        ({"input_mpp": None}, SlideError, "input_mpp"),
        ({"region": Rect(0, 0, 0, 4)}, UsageError, "no area"),
        ({"region": Rect(100, 0, 80, 4)}, UsageError, "outside"),
        ({"model": "nonesuch"}, ModelError, "nonesuch"),
        ({"model": "weights.pth"}, ModelError, "weights.pth"),
        ({"window": 100}, UsageError, "window"),
        ({"settings": {"steps": 0}}, UsageError, "steps"),
        ({"settings": {"fidelity": 2.0}}, UsageError, "fidelity"),
        ({"settings": {"sampler": "x"}}, UsageError, "sampler"),
        ({"settings": {"seed": -1}}, UsageError, "seed"),
        ({"device": "cuda:99"}, UsageError, "device"),
        ({"tissue": "nonesuch.geojson"}, (UsageError, SlideError), "nonesuch"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_nothing(
    slide: Path, changes: dict[str, object], error: type[Exception], message: str
) -> None:
    before = sorted(slide.parent.iterdir())
    with pytest.raises(error, match=message) as raised:
        upscale(job(slide, **changes))
    assert "\n" not in str(raised.value)
    assert sorted(slide.parent.iterdir()) == before


def test_a_failing_model_leaves_nothing(slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(Upscaler):
        device = torch.device("cpu")
        calls = 0

        def __call__(self, windows: object) -> torch.Tensor:
            self.calls += 1
            if self.calls == 3:
                return torch.full((1, 3, 128, 128), float("nan"))
            return torch.zeros(1, 3, 128, 128)

        def describe(self) -> dict[str, object]:
            return {"model": "failing"}

    monkeypatch.setattr("wsisr.models.load_upscaler", lambda *a, **k: Failing())
    before = sorted(slide.parent.iterdir())
    with pytest.raises(ModelError, match="not finite"):
        upscale(job(slide, tissue="off"))
    assert sorted(slide.parent.iterdir()) == before


def test_output_folder_missing(slide: Path) -> None:
    with pytest.raises(OutputError, match="nowhere"):
        upscale(job(slide, output=slide.parent / "nowhere" / "out.ome.tif"))


def test_existing_output_is_kept(slide: Path) -> None:
    out = slide.with_name("out.ome.tif")
    out.write_bytes(b"precious")
    with pytest.raises((OutputError, UsageError), match="give overwrite"):
        upscale(job(slide))
    with pytest.raises(UsageError, match="not made by wsisr"):
        upscale(job(slide, overwrite=True))
    assert out.read_bytes() == b"precious"
    out.unlink()
    upscale(job(slide))
    upscale(job(slide, overwrite=True, window=256))
    assert tifffile.TiffFile(out).is_ome


def test_an_image_in_memory_takes_the_same_way(slide: Path, model_folder: Path) -> None:
    model = str(model_folder)
    run = upscale(job(slide, model=model, tissue="off"))
    image = tifffile.imread(slide)
    array = upscale_image(image, 4, model=model, window=128, overlap=32)
    np.testing.assert_array_equal(array, level0(Path(run.output)))


def test_damaged_tiles_stop_the_run_or_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, tissue_like(256, 192), photometric="rgb", tile=(64, 64), compression=8)
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[0].dataoffsets[5]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\0" * 40)
    with pytest.raises(SlideError, match=r"in\.tif"):
        upscale(job(path, tissue="off"))
    for left in tmp_path.glob("out*"):
        left.unlink()
    result = upscale(job(path, tissue="off", on_tile_error="blank"))
    assert result.damaged_source_tiles == 1
    xml = tifffile.TiffFile(result.output).ome_metadata
    assert xml is not None
    assert '"damaged_source_tiles": [["level 0", 1, 1]]' in xml.replace("&quot;", '"')


class StoppedError(Exception):
    pass


def interrupted(run: Job, after: int) -> None:
    """Start a job and fail once `after` windows are done."""

    def stop(state: State) -> None:
        if state.done == after:
            raise StoppedError

    with pytest.raises(StoppedError):
        upscale(run, stop)


@pytest.mark.parametrize("after", [3, 9, 16, 24])
def test_a_resumed_run_computes_only_what_is_missing(
    slide: Path,
    model_folder: Path,
    after: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Windows over finished tiles are not computed again, and the pixels are those of one run."""
    # the output's tiles are as small as the windows, so that rows of tiles are begun and not done
    settings = {"model": str(model_folder), "tissue": "off", "tile": 128}
    whole = upscale(job(slide, output=slide.with_name("whole.ome.tif"), **settings))
    interrupted(job(slide, **settings), after)
    rest = upscale(job(slide, **settings))
    np.testing.assert_array_equal(level0(Path(rest.output)), level0(Path(whole.output)))
    assert rest.sha256_pixels == whole.sha256_pixels
    # a window is done when the tiles it completes are given; those it shares are made anew
    assert rest.tissue_windows <= whole.tissue_windows
    if after >= 9:
        assert rest.resumed_tiles > 0
        assert rest.tissue_windows <= whole.tissue_windows - rest.resumed_tiles // 2


def test_a_run_that_blends_otherwise_is_not_gone_on_from(
    slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = job(slide, tissue="off", tile=128)
    with monkeypatch.context() as patched:
        patched.setattr("wsisr.engine.preparation.blend_margin", lambda overlap: 0)
        interrupted(run, 9)
    with pytest.raises(UsageError, match="blend_margin 0, now 8"):
        upscale(run)


def test_a_run_compiled_otherwise_is_not_gone_on_from(
    slide: Path,
    model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Compiled pixels differ in the last bits."""
    monkeypatch.setattr("wsisr.models.dualstage.compile_blocks", lambda model: None)
    run = job(slide, tissue="off", model=str(model_folder), tile=128)
    interrupted(run, 9)
    with pytest.raises(UsageError, match=r"compile"):
        upscale(replace(run, settings={"compile": True}))


def test_damage_is_listed_whole_after_an_interruption(tmp_path: Path) -> None:
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, tissue_like(256, 192), photometric="rgb", tile=(64, 64), compression=8)
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[0].dataoffsets[0]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\0" * 40)
    run = job(path, tissue="off", on_tile_error="blank")
    interrupted(run, 80)
    result = upscale(run)
    assert result.resumed_tiles > 0
    assert result.damaged_source_tiles == 1


@given(
    x=st.integers(0, 300),
    y=st.integers(0, 300),
    seed=st.integers(0, 99),
    column=st.integers(0, 9),
    row=st.integers(0, 9),
)
def test_a_window_is_needed_where_an_unwritten_tile_lies_under_it(
    x: int, y: int, seed: int, column: int, row: int
) -> None:
    done = np.random.default_rng(seed).random((4, 5)) < 0.7
    missing = Missing(Rect(x, y, 5 * 64 - 7, 4 * 64 - 9), 64, done)
    window = Window(row, column, column * 48, row * 48)
    pixels = np.zeros((900, 900), bool)
    pixels[y : y + 256, x : x + 320] = np.kron(~done, np.ones((64, 64), bool))
    side = slice(window.y, window.y + 80), slice(window.x, window.x + 80)
    assert missing.needs(window, 80) == pixels[side].any()


def test_the_mask_is_written_for_qupath(slide: Path) -> None:
    out = slide.with_name("mask.geojson")
    upscale(job(slide, tissue_out=out))
    assert json.loads(out.read_text())["type"] == "FeatureCollection"


def test_a_run_is_plain_data_that_any_process_can_take_up(slide: Path) -> None:
    run = prepare(job(slide, uncertainty=None))
    again = pickle.loads(pickle.dumps(run))
    assert (again.job, again.plan, again.image) == (run.job, run.plan, run.image)
    assert again.image.provenance == run.image.provenance
    assert fingerprint(again.image) == fingerprint(run.image)
    np.testing.assert_array_equal(again.tissue.mask, run.tissue.mask)
    assert not list(slide.parent.glob("out*"))


def test_preparing_writes_nothing_and_the_mask_comes_with_the_run(slide: Path) -> None:
    mask = slide.with_name("mask.geojson")
    prepare(job(slide, tissue_out=mask))
    assert not mask.exists()
    upscale(job(slide, tissue_out=mask))
    assert mask.exists()


def test_blending_runs_where_the_images_are(slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = []

    class Blender(CellBlender):
        def __init__(self, plan: Plan, device: torch.device) -> None:
            devices.append(device)
            super().__init__(plan, device)

    class Elsewhere(InProcess):
        def __init__(self, *args: object) -> None:
            super().__init__(*args)  # type: ignore[arg-type]
            self.device = torch.device("cpu", 0)

    monkeypatch.setattr("wsisr.engine.output.CellBlender", Blender)
    monkeypatch.setattr("wsisr.engine.executor.InProcess", Elsewhere)
    upscale(job(slide))
    assert devices == [torch.device("cpu", 0)]
