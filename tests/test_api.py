"""The public API: lazy, typed, and the same job whichever way it is asked for."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import wsisr
from tests.processes import python
from wsisr.api import ModelSettings, UpscaleOptions
from wsisr.models import (
    COLOR_FIX_NAMES,
    CONSISTENCY_NAMES,
    PRECISION_NAMES,
    Settings,
)

HEAVY = ("torch", "diffusers", "numba", "skimage", "openslide", "zarr", "scipy", "cv2")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "in.png"
    Image.fromarray(np.random.default_rng(0).integers(80, 200, (60, 80, 3), np.uint8)).save(path)
    return path


def loaded_by(code: str, *arguments: object, cwd: Path | None = None) -> set[str]:
    """Heavy modules that are loaded once the code has run in a fresh interpreter."""
    report = f"""
import json, sys
sys.argv = ["wsisr", *sys.argv[1:]]
try:
{"".join(f"    {line}{chr(10)}" for line in code.splitlines())}
except SystemExit:
    pass
print(json.dumps([name for name in {HEAVY} if name in sys.modules]), file=sys.stderr)
"""
    done = python(report, *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


COMMAND = "from wsisr.cli import run\nrun()"


@pytest.mark.parametrize(
    ("code", "arguments", "allowed"),
    [
        ("import wsisr\nassert 'numpy' not in sys.modules", (), set()),
        ("import wsisr\nwsisr.Job, wsisr.Result, wsisr.SlideError, wsisr.upscale", (), set()),
        (COMMAND, ("--help",), set()),
        (COMMAND, ("upscale", "--help"), set()),
        (COMMAND, ("eval", "--help"), set()),
        (COMMAND, ("upscale", "missing.svs", "o.ome.tif"), set()),
        (COMMAND, ("info", "in.png"), {"openslide", "cv2"}),
    ],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(
    picture: Path, code: str, arguments: tuple[str, ...], allowed: set[str]
) -> None:
    assert loaded_by(code, *arguments, cwd=picture.parent) <= allowed


def test_names_of_the_face() -> None:
    wanted = {
        *("upscale", "upscale_image", "convert", "evaluate", "measure", "open_slide", "load_model"),
        *("batch", "foresee", "foresee_batch", "staged"),
        *("Job", "Rect", "Result", "WsisrError", "UsageError", "OptionError", "SlideError"),
        *("ExistsError", "ModelError", "OutputError", "State", "__version__"),
    }
    assert set(wsisr.__all__) == wanted
    assert wanted - {"__version__"} <= set(dir(wsisr))
    for name in wanted - {"evaluate", "measure"}:
        assert getattr(wsisr, name) is not None
    with pytest.raises(AttributeError):
        wsisr.downscale  # type: ignore[attr-defined]  # noqa: B018


def test_options_by_keyword_are_the_fields_of_a_job() -> None:
    fields = {field.name for field in dataclasses.fields(wsisr.Job)}
    keywords = set(UpscaleOptions.__annotations__)
    settings = set(ModelSettings.__annotations__)
    assert keywords - settings == fields - {"source", "output", "settings"}
    assert settings <= {field.name for field in dataclasses.fields(Settings)}


def test_names_of_choices_are_those_that_are_registered() -> None:
    from wsisr.models.colour import COLOR_FIXES
    from wsisr.models.precision import PRECISIONS

    assert tuple(PRECISIONS) == PRECISION_NAMES
    assert (*COLOR_FIXES, "none") == COLOR_FIX_NAMES
    for name in CONSISTENCY_NAMES:
        assert Settings(consistency=name).consistency == name


def test_a_job_and_keywords_make_the_same_pixels(picture: Path) -> None:
    first, second = (picture.with_name(f"{name}.ome.tif") for name in ("first", "second"))
    seen: list[wsisr.State] = []
    job = wsisr.Job(
        picture, first, scale=4, input_mag=10, model="bicubic", tile=256, settings={"seed": 3}
    )
    by_job = wsisr.upscale(job, progress=seen.append)
    last = seen[-1]
    assert (last.done, last.total) == (by_job.windows, by_job.windows)
    assert last.tissue_done == last.tissue_total == by_job.tissue_windows
    assert last.pixels_done == by_job.width * by_job.height
    assert 0 <= last.busy_share <= 1
    assert last.seconds_to_go == 0
    by_keywords = wsisr.upscale(
        str(picture),
        str(second),
        scale=4,
        input_mag=10,
        model="bicubic",
        tile=256,
        seed=3,
        steps=None,
    )
    assert isinstance(by_job, wsisr.Result)
    assert by_job.sha256_pixels == by_keywords.sha256_pixels
    with tifffile.TiffFile(second) as file:
        assert file.pages[0].tilewidth == 256


def test_an_unfinished_run_is_not_taken_over_by_one_with_other_tiles(picture: Path) -> None:
    out = picture.with_name("out.ome.tif")

    def run(tile: int, after: int, **options: bool) -> wsisr.Result:
        def stop(state: wsisr.State) -> None:
            if state.done == after:
                raise KeyboardInterrupt

        return wsisr.upscale(
            *(picture, out),
            **{"scale": 4, "input_mag": 10, "model": "bicubic", "window": 128, "overlap": 32},
            tile=tile,
            progress=stop,
            **options,
        )

    with pytest.raises(KeyboardInterrupt):
        run(64, 6)
    with pytest.raises(wsisr.WsisrError, match="overwrite"):
        run(32, 0)
    assert run(64, 0).resumed_tiles > 0
    assert run(32, 0, overwrite=True).resumed_tiles == 0
    with tifffile.TiffFile(out) as file:
        assert file.pages[0].tilewidth == 32


def test_an_image_is_upscaled_by_a_model_that_is_loaded_once(picture: Path) -> None:
    image = np.array(Image.open(picture))[:24, :32]
    model = wsisr.load_model("tiny", device="cpu", scale=4, steps=1, seed=5)
    assert model.describe()["settings"]["seed"] == 5
    loaded = wsisr.upscale_image(image, 4, model=model, window=128, overlap=32)
    named = wsisr.upscale_image(
        image, 4, device="cpu", window=128, overlap=32, steps=1, seed=5, fidelity=None
    )
    assert loaded.shape == (96, 128, 3)
    assert loaded.dtype == np.uint8
    np.testing.assert_array_equal(loaded, named)


def test_wrong_calls_are_told_in_the_words_of_the_api(picture: Path) -> None:
    out = picture.with_name("out.ome.tif")
    with pytest.raises(wsisr.SlideError, match=r"missing\.svs does not exist"):
        wsisr.upscale("missing.svs", out)
    with pytest.raises(wsisr.UsageError, match="window 100") as raised:
        wsisr.upscale(picture, out, scale=4, input_mag=10, model="bicubic", window=100)
    assert "--" not in str(raised.value)
    with pytest.raises(TypeError, match="windows"):
        wsisr.upscale(picture, out, windows=512)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="output"):
        wsisr.upscale(picture)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="job"):
        wsisr.upscale(wsisr.Job(picture, out), scale=4)  # type: ignore[call-overload]
    assert not out.exists()


def test_slides_are_opened_and_converted(picture: Path) -> None:
    out = picture.with_name("out.ome.tif")
    result = wsisr.convert(picture, out, input_mag=10)
    assert (result.width, result.height) == (80, 60)
    with wsisr.open_slide(out) as slide:
        assert slide.levels[0].width == 80
    with pytest.raises(wsisr.SlideError):
        wsisr.open_slide("missing.svs")


def test_images_are_measured(picture: Path) -> None:
    hr = np.array(Image.open(picture))
    sr = np.clip(hr.astype(int) + 1, 0, 255).astype(np.uint8)
    values = wsisr.measure(sr, hr, metrics=["psnr", "ssim"])
    assert values["psnr"] == pytest.approx(20 * np.log10(255), abs=0.1)
    assert values["ssim"] > 0.9


def test_folders_of_tiles_are_evaluated(picture: Path) -> None:
    pixels = np.array(Image.open(picture))
    for folder, image in (("sr", pixels), ("hr", pixels[::-1])):
        (picture.parent / folder).mkdir()
        Image.fromarray(image).save(picture.parent / folder / "a.png")
    found = wsisr.evaluate(
        picture.parent / "sr", picture.parent / "hr", tiles=True, metrics=["psnr"]
    )
    assert found.methods["sr"]["psnr"] > 0
