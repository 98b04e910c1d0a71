"""The examples run as they stand, with workers of this machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import tifffile

from examples import dask_gpu, dask_local, dask_slurm
from tests.engine.support import tissue_like


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    path = tmp_path / "in.tif"
    tifffile.imwrite(
        path, tissue_like(150, 110), photometric="rgb", tile=(64, 64),
        resolution=(10_000, 10_000), resolutionunit="CENTIMETER",
    )  # fmt: skip
    return path


@pytest.mark.slow
def test_a_cohort_on_a_local_cluster(slide: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = slide.with_name("out")
    assert dask_local.main([str(slide), "--out", str(out), "--model", "bicubic"]) == 0
    assert capsys.readouterr().out == "in done \n"
    assert (out / "in.ome.tif").is_file()


@pytest.mark.slow
def test_a_cohort_as_on_slurm(slide: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = slide.with_name("out")
    arguments = [str(slide), "--out", str(out), "--model", "bicubic", "--local", "--workers", "1"]
    assert dask_slurm.main(arguments) == 0
    assert capsys.readouterr().out == "in done \n"


@pytest.mark.slow
def test_a_slide_as_on_gpus(slide: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = slide.with_name("out.ome.tif")
    assert dask_gpu.main([str(slide), str(out), "--model", "bicubic", "--local"]) == 0
    assert "600x440 px" in capsys.readouterr().out


def test_what_they_need_is_imported_when_it_is_needed() -> None:
    assert not {"dask_jobqueue", "dask_cuda"} & set(sys.modules)
