from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.engine.support import job, level0, tissue_like
from wsisr.engine.array import upscale_image
from wsisr.engine.job import Job
from wsisr.engine.run import upscale
from wsisr.engine.uncertainty import COUNTS_PER_LEVEL, companion_path
from wsisr.errors import ExistsError, UsageError
from wsisr.progress import State

SETTINGS = {"fidelity": 0.0, "precision": "fp32"}


@pytest.fixture
def wanted(slide: Path, model_folder: Path) -> Job:
    image = tifffile.imread(slide)
    image[:, 60:] = 243
    tifffile.imwrite(slide, image, photometric="rgb", tile=(64, 64))
    return job(slide, model=str(model_folder), uncertainty=3, settings=SETTINGS)


def test_the_map_is_the_spread_of_the_outputs_of_each_seed(wanted: Job) -> None:
    result = upscale(wanted)
    image = tifffile.imread(wanted.source)
    outputs = np.stack(
        [
            upscale_image(
                image, 4, model=wanted.model, window=128, overlap=32, **{**SETTINGS, "seed": seed}
            )
            for seed in range(3)
        ]
    ).astype(float)
    spread = np.sqrt(outputs.var(0, ddof=1).mean(-1))
    found = tifffile.imread(companion_path(wanted.output)) / COUNTS_PER_LEVEL
    assert found.shape == spread.shape == (440, 600)
    # the map stands on windows before they are rounded to bytes
    inside = np.s_[40:90, 40:90]  # of the first window alone
    assert np.abs(found - spread)[inside].max() < 1
    assert found[:, 530:].max() == 0
    tissue = found[:, :384]
    assert spread[inside].mean() > 0.2
    facts = result.uncertainty
    assert facts is not None
    assert (facts["output"], facts["samples"]) == (str(companion_path(wanted.output)), 3)
    assert facts["max"] == pytest.approx(found.max(), abs=1e-3)
    assert 0 < facts["mean"] < facts["p95"] < facts["max"]
    assert facts["mean"] == pytest.approx(tissue.mean(), rel=0.2)


def test_the_output_is_the_first_sample_or_the_mean(wanted: Job) -> None:
    alone = upscale(replace(wanted, uncertainty=None))
    first = upscale(replace(wanted, overwrite=True))
    assert first.sha256_pixels == alone.sha256_pixels
    mean = upscale(replace(wanted, overwrite=True, output_sample="mean"))
    image = tifffile.imread(wanted.source)
    outputs = [
        upscale_image(
            image, 4, model=wanted.model, window=128, overlap=32, **{**SETTINGS, "seed": seed}
        ).astype(float)
        for seed in range(3)
    ]
    difference = np.abs(level0(Path(mean.output)) - np.mean(outputs, 0))
    # the windows of the second array are all tissue
    assert difference[:, :350].max() <= 1.01


def test_the_map_says_what_its_values_are(wanted: Job) -> None:
    upscale(wanted)
    with tifffile.TiffFile(companion_path(wanted.output)) as file:
        assert file.is_ome
        xml = (file.ome_metadata or "").replace("&quot;", '"')
        assert [level.shape for level in file.series[0].levels] == [(440, 600), (220, 300)]
    assert '"counts_per_unit": 4' in xml
    assert '"lookup"' in xml
    assert 'NominalMagnification="40' in xml
    assert 'PhysicalSizeX="0.25"' in xml
    assert "not for primary diagnosis" in xml


def test_an_interrupted_run_goes_on_in_both(wanted: Job, tmp_path: Path) -> None:
    image = tissue_like(50, 500)
    tifffile.imwrite(wanted.source, image, photometric="rgb", tile=(64, 64))
    whole = replace(wanted, output=tmp_path / "whole.ome.tif")
    upscale(whole)

    def stop(state: State) -> None:
        if state.done > 0.7 * state.total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upscale(wanted, stop)
    assert not wanted.output.exists()
    assert not companion_path(wanted.output).exists()
    result = upscale(wanted)
    assert result.resumed_rows > 0
    np.testing.assert_array_equal(level0(wanted.output), level0(whole.output))
    np.testing.assert_array_equal(
        level0(companion_path(wanted.output)), level0(companion_path(whole.output))
    )
    left = {path.name for path in tmp_path.glob("out*")}
    assert left == {"out.ome.tif", "out.uncertainty.ome.tif"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"uncertainty": 1}, "at least 2"),
        ({"uncertainty": 3, "model": "bicubic"}, "same image from every seed"),
        ({"uncertainty": 3, "settings": {"fidelity": 1.0}}, "same image from every seed"),
        ({"uncertainty": 3, "output_sample": "median"}, "output_sample"),
    ],
)
def test_what_has_no_spread_is_said(wanted: Job, changes: dict[str, object], message: str) -> None:
    before = sorted(wanted.source.parent.iterdir())
    with pytest.raises(UsageError, match=message):
        upscale(replace(wanted, **changes))  # type: ignore[arg-type]
    assert sorted(wanted.source.parent.iterdir()) == before


def test_an_existing_map_is_kept(wanted: Job) -> None:
    companion_path(wanted.output).write_bytes(b"precious")
    with pytest.raises(ExistsError, match="give overwrite"):
        upscale(wanted)
    assert companion_path(wanted.output).read_bytes() == b"precious"
    assert not wanted.output.exists()
    assert not list(wanted.output.parent.glob("*.partial"))


def test_the_map_lists_the_damaged_tiles_of_the_input(wanted: Job) -> None:
    tifffile.imwrite(
        wanted.source, tissue_like(256, 192), photometric="rgb", tile=(64, 64), compression=8
    )
    with tifffile.TiffFile(wanted.source) as tiff:
        offset = tiff.pages[0].dataoffsets[5]
    with wanted.source.open("r+b") as file:
        file.seek(offset)
        file.write(b"\0" * 40)
    upscale(replace(wanted, on_tile_error="blank", tissue="off", uncertainty=2))
    for output in (wanted.output, companion_path(wanted.output)):
        xml = tifffile.TiffFile(output).ome_metadata
        assert xml is not None
        assert '"damaged_source_tiles": [["level 0", 1, 1]]' in xml.replace("&quot;", '"')
