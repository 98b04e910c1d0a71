from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.engine.support import job, tissue_like
from wsisr.engine.meter import Meter
from wsisr.engine.preparation import open_view, prepare
from wsisr.engine.resume import Missing
from wsisr.engine.run import upscale
from wsisr.engine.size import check_room, estimate_size, journal_bytes
from wsisr.engine.windows import WindowReader, find_tissue_windows
from wsisr.errors import OutputError
from wsisr.progress import State
from wsisr.tissue import TissueMask


@pytest.fixture
def patch(tmp_path: Path) -> Path:
    """A slide of glass with a patch of tissue."""
    rng = np.random.default_rng(1)
    image = rng.normal(240, 1.5, (420, 500, 3)).clip(0, 255).astype(np.uint8)
    image[60:260, 120:360] = tissue_like(240, 200)
    Image.fromarray(image).save(tmp_path / "in.png")
    return tmp_path / "in.png"


def free_bytes(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = shutil.disk_usage(".")._replace(free=free)
    monkeypatch.setattr("wsisr.engine.size.shutil.disk_usage", lambda folder: usage)


@pytest.mark.parametrize("changes", [{}, {"region": (130, 70, 201, 103)}, {"scale": 3.3}])
def test_windows_with_tissue_are_known_without_reading(
    patch: Path, changes: dict[str, object]
) -> None:
    from wsisr.plan import Rect

    if "region" in changes:
        changes = {"region": Rect(*changes["region"])}  # type: ignore[misc]
    run = prepare(job(patch, tissue="auto", **changes))
    with open_view(run.job) as view:
        reader = WindowReader(run.plan, view, run.tissue)
        read = [reader.read(window).tissue is not None for window in run.plan.windows()]
    found = find_tissue_windows(run.plan, run.tissue)
    assert found.ravel().tolist() == read
    assert any(read)


def test_a_grid_of_rectangles_is_told_as_one_by_one() -> None:
    rng = np.random.default_rng(0)
    mask = TissueMask(rng.random((13, 17)) < 0.1, 7.3)
    columns = [(x, x + int(rng.integers(1, 60))) for x in range(-20, 150, 11)]
    rows = [(y, y + int(rng.integers(1, 60))) for y in range(-20, 120, 9)]
    one_by_one = [
        [mask.overlaps(x, y, right - x, bottom - y) for x, right in columns] for y, bottom in rows
    ]
    assert mask.overlaps_grid(columns, rows).tolist() == one_by_one


@pytest.mark.parametrize(
    "changes",
    [
        {"compression": "jpeg"},
        {"compression": "jpeg", "quality": 50, "subsampling": "444"},
        {"compression": "deflate"},
        {"compression": "zstd", "scale": 8, "force": True},
        {"output": "out.ome.zarr"},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_sizes_are_foreseen(patch: Path, changes: dict[str, object]) -> None:
    if "output" in changes:
        changes = {"output": patch.with_name(str(changes["output"]))}
    asked = job(patch, tissue="auto", **changes)
    run = prepare(asked)
    expected = estimate_size(run, find_tissue_windows(run.plan, run.tissue))
    output = Path(upscale(asked).output)
    files = [output] if output.is_file() else [f for f in output.rglob("*") if f.is_file()]
    assert expected == pytest.approx(sum(file.stat().st_size for file in files), rel=0.25)


def test_a_run_that_cannot_fit_is_refused_before_it_starts(
    patch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = job(patch)
    run = prepare(asked)
    needed = estimate_size(run, find_tissue_windows(run.plan, run.tissue))
    free_bytes(monkeypatch, needed // 2)
    before = sorted(patch.parent.iterdir())
    with pytest.raises(
        OutputError, match=r"out\.ome\.tif: the run needs about .* GB free; .*force"
    ):
        upscale(asked)
    assert sorted(patch.parent.iterdir()) == before
    free_bytes(monkeypatch, round(1.3 * needed) + journal_bytes(run.image))
    check_room(run)
    free_bytes(monkeypatch, needed // 2)
    upscale(job(patch, force=True))


def test_what_an_unfinished_run_has_written_counts(
    patch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = job(patch, tile=128)

    def stop(state: State) -> None:
        if state.done == 150:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upscale(asked, stop)
    run = prepare(asked)
    needed = 1.2 * estimate_size(run, find_tissue_windows(run.plan, run.tissue))
    there = sum(
        patch.with_name(f"out.ome.tif.{suffix}").stat().st_size for suffix in ("partial", "pieces")
    )
    assert there > 100_000
    free_bytes(monkeypatch, round(needed) + journal_bytes(run.image) - there + 1000)
    states: list[State] = []
    result = upscale(asked, states.append)
    assert result.resumed_tiles > 0
    assert states[-1].tissue_done == states[-1].tissue_total == result.tissue_windows


class Idle:
    devices, busy_seconds = 1, 0.0


def test_windows_that_nothing_is_made_of_are_not_counted(patch: Path) -> None:
    run = prepare(job(patch))
    rows, columns = run.image.grid(0)
    done = np.ones((rows, columns), bool)
    done[-1, -1] = False
    missing = Missing(run.plan.region, run.image.tile, done)
    state = Meter(run.plan, run.tissue, missing, Idle(), None).state()
    needed = find_tissue_windows(run.plan, run.tissue, missing)
    assert state.tissue_total == needed.sum() < find_tissue_windows(run.plan, run.tissue).sum()
