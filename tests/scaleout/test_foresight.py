from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import wsisr
from tests.engine.support import job, tissue_like
from tests.processes import wsisr as run_wsisr
from wsisr.engine import prepare
from wsisr.scaleout import Pace, calibrate, cost_of, estimate, foresee


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrations of at most 3 x 3 windows."""
    monkeypatch.setattr("wsisr.scaleout.foresight.MOST_WINDOWS", 3)


@pytest.fixture
def patch(tmp_path: Path) -> Path:
    """A slide of glass with a patch of tissue."""
    image = np.full((420, 500, 3), 240, np.uint8)
    image[60:260, 120:360] = tissue_like(240, 200)
    Image.fromarray(image).save(tmp_path / "in.png")
    return tmp_path / "in.png"


def test_what_a_run_will_be_is_what_it_is(patch: Path) -> None:
    asked = job(patch)
    foreseen = foresee(asked)
    assert list(patch.parent.iterdir()) == [patch]
    result = wsisr.upscale(asked)
    for name in ("width", "height", "mpp", "magnification", "windows", "tissue_windows", "steps"):
        assert getattr(foreseen, name) == getattr(result, name), name
    assert 0.2 < foreseen.tissue_share < 0.5
    assert (foreseen.device, foreseen.seconds) == ("cpu", None)
    assert foreseen.disk_bytes > foreseen.output_bytes
    assert "tissue" in str(foreseen)


@pytest.mark.parametrize("changes", [{}, {"scale": 2.5, "tile": 64}, {"uncertainty": 2}])
def test_an_estimate_writes_nothing(
    patch: Path, model_folder: Path, short: None, changes: dict[str, object]
) -> None:
    model = str(model_folder) if "uncertainty" in changes else "bicubic"
    foreseen = estimate(job(patch, model=model, **changes))
    assert foreseen.seconds is not None
    assert foreseen.seconds > 0
    assert [each for each in patch.parent.iterdir() if each.is_file()] == [patch]


def test_workers_are_calibrated_together(patch: Path, forked: None, short: None) -> None:
    pace = calibrate(prepare(job(patch, workers=2, device="cpu")))
    assert pace.tissue > pace.glass > 0
    assert "2 processes" in foresee(job(patch, workers=2)).device


def test_windows_make_the_time() -> None:
    pace = Pace(start=2.0, tissue=0.1, glass=0.01, size=1.0, peak_rss_mb=500)
    assert pace.seconds(tissue=100, glass=1000) == pytest.approx(22)


def test_slides_are_ordered_by_what_the_model_computes(patch: Path) -> None:
    all_tissue, some = foresee(job(patch, tissue="off")), foresee(job(patch, tissue="auto"))
    assert cost_of(all_tissue) > 1.5 * cost_of(some)
    assert cost_of(replace(some, steps=50)) > cost_of(replace(some, steps=1))


def test_a_dry_run_prints_and_writes_nothing(patch: Path) -> None:
    options = ("--input-mpp", 1, "--model", "bicubic", "--scale", 2, "--dry-run")
    command = ("upscale", patch, patch.with_name("out.ome.tif"), *options)
    text = run_wsisr(*command)
    assert text.returncode == 0, text.stderr
    wanted = ["output:", "windows:", "tissue:", "model:", "disk:", "memory:", "time:"]
    assert [line.split()[0] for line in text.stdout.splitlines()] == wanted
    plan = json.loads(run_wsisr(*command, "--json").stdout)
    assert (plan["width"], plan["height"]) == (1000, 840)
    assert plan["seconds"] > 0
    assert list(patch.parent.iterdir()) == [patch]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "scale", "model", "region"),
    [
        ("test_a_5x.tif", 8, "tiny", (256, 256, 400, 400)),
        ("test_b_10x.tif", 4, "tiny", (0, 0, 600, 600)),
        ("test_b_10x.tif", 8, "bicubic", None),
    ],
)
def test_estimates_are_near_the_run(
    data_dir: Path,
    tmp_path: Path,
    name: str,
    scale: int,
    model: str,
    region: tuple[int, int, int, int] | None,
) -> None:
    asked = wsisr.Job(
        data_dir / "slides" / name,
        tmp_path / "out.ome.tif",
        scale=scale,
        model=model,
        region=None if region is None else wsisr.Rect(*region),
        device="cpu",
        force=True,
    )
    foreseen = estimate(asked)
    result = wsisr.upscale(asked)
    assert foreseen.seconds is not None
    assert 1 / 1.5 < result.seconds / foreseen.seconds < 1.5
    written = asked.output.stat().st_size
    assert 1 / 1.5 < written / foreseen.output_bytes < 1.5
    assert 1 / 1.5 < result.peak_rss_mb * 1e6 / foreseen.memory_bytes < 1.5
