from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine.support import job, tissue_like
from wsisr.engine import Job, compute_band, part_path, prepare, remove_parts, split_rows, upscale
from wsisr.engine.executor import InProcess
from wsisr.errors import OptionError, UsageError
from wsisr.progress import State
from wsisr.pyramid.records import journal_path, pieces_path

FORMATS: list[dict[str, Any]] = [
    {},
    {"compression": "jpeg"},
    {"compression": "jpeg2000", "quality": 100},
    {"suffix": ".ome.zarr"},
    {"suffix": ".ome.zarr", "zarr_version": "0.5"},
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of tissue with a stripe of glass across it."""
    path = tmp_path_factory.mktemp("bands") / "in.tif"
    pixels = tissue_like(130, 170)
    pixels[60:100] = 255
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(64, 64))
    return path


def wanted(source: Path, name: str, **changes: Any) -> Job:
    suffix = changes.pop("suffix", ".ome.tif")
    return job(source, output=source.with_name(name + suffix), tile=64, **changes)


def all_levels(path: Path) -> list[np.ndarray]:
    if path.suffix == ".zarr":
        group = zarr.open_group(path, mode="r")
        return [np.asarray(group[name]) for name in sorted(group.array_keys())]
    with tifffile.TiffFile(path) as file:
        return [level.asarray() for level in file.series[0].levels]


def assert_same(one: Path, other: Path) -> None:
    for own, wanted in zip(all_levels(one), all_levels(other), strict=True):
        np.testing.assert_array_equal(own, wanted)


def compute_parts(run_job: Job, bands: list[range]) -> list[Path]:
    run = prepare(run_job)
    parts = [part_path(run_job.output, rows) for rows in bands]
    for rows, part in zip(bands, parts, strict=True):
        compute_band(run, rows, part)
    return parts


def no_model(*_: object) -> InProcess:
    raise AssertionError("nothing is missing, so nothing is to be computed")


class Killed(BaseException):
    pass


@pytest.mark.parametrize("changes", FORMATS, ids=str)
def test_joined_bands_are_the_whole_on_all_levels(source: Path, changes: dict[str, Any]) -> None:
    whole = upscale(wanted(source, "whole", **changes, overwrite=True))
    split = wanted(source, "split", **changes, overwrite=True)
    parts = compute_parts(split, split_rows(prepare(split), 3))
    joined = upscale(split, parts=parts, open_executor=no_model)
    assert_same(Path(joined.output), Path(whole.output))
    assert joined.resumed_tiles == 9 * 11
    lossy = changes.get("compression") == "jpeg"
    assert joined.sha256_pixels == (None if lossy else whole.sha256_pixels)
    remove_parts(split.output)
    assert sorted(p.name for p in source.parent.glob(split.output.name + "*")) == [
        split.output.name
    ]


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    scale=st.sampled_from([2, 2.5, 3, 4]),
    cuts=st.sets(st.integers(1, 10), max_size=4),
    exact=st.booleans(),
)
def test_any_split_gives_the_whole(source: Path, scale: float, cuts: set[int], exact: bool) -> None:
    changes: dict[str, Any] = {"scale": scale, "overwrite": True, "tile": 48}
    if exact and scale == round(scale):
        changes["settings"] = {"consistency": "exact"}
    whole = upscale(replace(wanted(source, "whole"), **changes))
    split = replace(wanted(source, "any"), **changes)
    rows = prepare(split).image.grid(0)[0]
    ends = [*sorted(cut for cut in cuts if cut < rows), rows]
    bands = [range(start, end) for start, end in zip([0, *ends], ends, strict=False)]
    joined = upscale(split, parts=compute_parts(split, bands))
    remove_parts(split.output)
    assert joined.sha256_pixels == whole.sha256_pixels
    assert_same(split.output, Path(whole.output))


def test_a_band_goes_on_from_where_it_was_interrupted(source: Path) -> None:
    whole = upscale(wanted(source, "whole", overwrite=True))
    split = wanted(source, "again", overwrite=True)
    run = prepare(split)
    rows = split_rows(run, 2)[1]
    part = part_path(split.output, rows)

    def stop(state: State) -> None:
        if state.done > state.total // 2:
            raise Killed

    all_windows, _ = compute_band(run, rows, part.with_name("other.ome.tif"))
    with pytest.raises(Killed):
        compute_band(run, rows, part, stop)
    assert 0 < compute_band(run, rows, part)[0] < all_windows
    assert compute_band(run, rows, part) == (0, 0)
    joined = upscale(split, parts=[part])
    assert 0 < joined.windows < whole.windows
    assert joined.sha256_pixels == whole.sha256_pixels
    remove_parts(split.output)


@pytest.mark.parametrize("harm", ["lost", "torn", "no journal", "no pieces", "bad header"])
@pytest.mark.parametrize("suffix", [".ome.tif", ".ome.zarr"])
def test_what_a_part_has_lost_is_computed_again(source: Path, suffix: str, harm: str) -> None:
    whole = upscale(wanted(source, "whole", suffix=suffix, overwrite=True))
    split = wanted(source, "harmed", suffix=suffix, overwrite=True)
    parts = compute_parts(split, split_rows(prepare(split), 3))
    spoil(parts[1], harm)
    joined = upscale(split, parts=parts)
    assert 0 < joined.windows < whole.windows
    assert joined.resumed_tiles < 9 * 11
    assert joined.sha256_pixels == whole.sha256_pixels
    assert_same(split.output, Path(whole.output))
    remove_parts(split.output)


def spoil(part: Path, harm: str) -> None:
    stored = part.with_name(part.name + ".partial")
    if harm == "no journal":
        journal_path(part).unlink()
    elif harm == "no pieces":
        pieces_path(part).unlink()
    elif harm == "bad header":
        journal_path(part).write_bytes(b"nonsense")
    elif harm == "lost":
        for file in (stored, journal_path(part), pieces_path(part)):
            file.rename(file.with_name("gone." + file.name))
    else:
        files = [p for p in (stored / "0").rglob("*") if p.is_file()]
        file = stored if stored.is_file() else min(files)
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 0xFF
        file.write_bytes(data)


def test_a_join_that_was_interrupted_goes_on(source: Path) -> None:
    whole = upscale(wanted(source, "whole", overwrite=True))
    split = wanted(source, "twice", overwrite=True)
    parts = compute_parts(split, split_rows(prepare(split), 3))
    with pytest.raises(Killed):
        upscale(split, parts=parts[:1], open_executor=refuse)
    joined = upscale(replace(split, resume=True), parts=parts, open_executor=no_model)
    assert joined.sha256_pixels == whole.sha256_pixels
    assert_same(split.output, Path(whole.output))
    remove_parts(split.output)


def refuse(*_: object) -> InProcess:
    raise Killed


def test_bands_are_refused_where_they_would_differ(source: Path) -> None:
    several = wanted(source, "map", uncertainty=2, model="bicubic")
    run = prepare(replace(several, uncertainty=None))
    with pytest.raises(OptionError, match="uncertainty"):
        split_rows(replace(run, job=several), 2)
    exact = prepare(wanted(source, "exact", scale=3, settings={"consistency": "exact"}))
    assert all(rows.start % 3 == 0 for rows in split_rows(exact, 9))
    with pytest.raises(UsageError, match="multiple of 3"):
        compute_band(exact, range(1, 3), part_path(exact.job.output, range(1, 3)))
    with pytest.raises(UsageError, match="are no band"):
        compute_band(run, range(0, 99), part_path(run.job.output, range(0, 99)))


def test_a_part_of_another_run_is_refused(source: Path) -> None:
    split = wanted(source, "mixed", overwrite=True)
    parts = compute_parts(replace(split, window=192), [range(0, 4)])
    with pytest.raises(UsageError, match=r"0-4\.ome\.tif.*window"):
        upscale(split, parts=parts)
    remove_parts(split.output)


def test_splits_are_whole_and_even(source: Path) -> None:
    run = prepare(wanted(source, "even"))
    for count in range(1, 20):
        bands = split_rows(run, count)
        assert [row for rows in bands for row in rows] == list(range(11))
        assert len(bands) == min(count, 11)
        assert max(map(len, bands)) - min(map(len, bands)) <= 1
