"""What commands write besides slides replaces nothing but its like."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.engine.support import job
from tests.pyramid.support import picture, write
from wsisr.errors import OptionError, UsageError
from wsisr.evaluation.nuclei import FOLDER, UnmatchedFiles
from wsisr.evaluation.report import check_report
from wsisr.guard import refuse_inputs, refuse_same_url
from wsisr.models.published import convert as convert_model
from wsisr.pyramid import PyramidSpec, is_own_output
from wsisr.scaleout import open_events
from wsisr.scaleout.cohort.report import check_report as check_cohort
from wsisr.scaleout.cohort.report import write_report
from wsisr.transcode import convert


@pytest.mark.parametrize("suffix", [".ome.tif", ".ome.zarr"])
def test_conversion_never_replaces_its_source(suffix: str, tmp_path: Path) -> None:
    source = write(
        tmp_path / f"in{suffix}", PyramidSpec(70, 50, 0.25, 40, tile=32), picture(70, 50)
    )
    (tmp_path / f"link{suffix}").symlink_to(source)
    for output in (
        source,
        tmp_path / f"link{suffix}",
        tmp_path / ".." / tmp_path.name / source.name,
    ):
        with pytest.raises(UsageError, match="which is read"):
            convert(source, output, overwrite=True)
    assert is_own_output(source)
    other = tmp_path / f"in{suffix}.partial"
    source.rename(other)
    with pytest.raises(UsageError, match="which is read"):
        convert(other, tmp_path / f"in{suffix}", overwrite=True)
    assert is_own_output(other)


def test_a_file_within_a_folder_that_is_read_or_replaced(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").touch()
    with pytest.raises(UsageError, match="lies inside"):
        refuse_inputs([tmp_path / "a" / "b" / "new"], [tmp_path / "a"])
    with pytest.raises(UsageError, match="holds"):
        refuse_inputs([tmp_path / "a"], [tmp_path / "a" / "b" / "c"])
    refuse_inputs([tmp_path / "b", tmp_path / "a" / "new"], [tmp_path / "a" / "b", tmp_path / "no"])


def test_what_is_behind_a_url_is_not_replaced_by_what_is_made_of_it() -> None:
    for one, other in (("s3://b/x.ome.zarr", "S3://b/x.ome.zarr/"), ("gs://b/x", "gs://b/x?a=1")):
        with pytest.raises(UsageError, match="is the input"):
            refuse_same_url(one, other)
    refuse_same_url("s3://b/x.ome.zarr", "s3://b/y.ome.zarr")
    refuse_same_url("s3://b/x.ome.zarr", "x.ome.zarr")


@pytest.mark.parametrize("name", ["model", "model.partial", "model.replaced"])
def test_converted_models_replace_converted_models_alone(name: str, tmp_path: Path) -> None:
    checkpoint = tmp_path / "a.safetensors"
    checkpoint.touch()
    folder = tmp_path / name
    folder.mkdir()
    (folder / "thesis.txt").write_text("x")
    for left in ((), ("model.json", "conversion.json")):
        for each in left:
            (folder / each).write_text("{}")
        with pytest.raises(UsageError, match="not made by wsisr"):
            convert_model([checkpoint], tmp_path / "model", overwrite=True)
    (folder / "thesis.txt").rename(folder / "a.safetensors")
    with pytest.raises(UsageError, match="which is read"):
        convert_model([folder / "a.safetensors"], tmp_path / "model", overwrite=True)
    assert (folder / "a.safetensors").read_text() == "x"


def test_a_report_replaces_reports_alone(tmp_path: Path) -> None:
    check_report(tmp_path / "new", [])
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("x")
    check_report(out, [])
    for name in ("report.html", "tiles.csv", "summary.json", "tiles.geojson"):
        (out / name).write_text("{}")
        with pytest.raises(UsageError, match=f"{name}.*not made by wsisr"):
            check_report(out, [])
        (out / name).unlink()
    (out / FOLDER).mkdir()
    (out / FOLDER / "drawn.geojson").write_text('{"type":"FeatureCollection","features":[]}')
    with pytest.raises(UsageError, match="not made by wsisr"):
        check_report(out, [])
    (out / FOLDER / "drawn.geojson").unlink()
    with UnmatchedFiles(out, 0.25, by_tile=True) as files:
        files._folder.rmdir()
        files.add(LOCATION, "sr", [])
    (out / "summary.json").write_text(json.dumps({"versions": {"wsisr": "1"}, "methods": {}}))
    (out / "report.html").write_text("older")
    check_report(out, [])
    with pytest.raises(UsageError, match="which is read"):
        check_report(out, [out / "summary.json"])


class LOCATION:
    name, x, y = "a", 0, 0


def test_a_cohorts_report_replaces_reports_alone(tmp_path: Path) -> None:
    check_cohort(tmp_path / "new", [])
    (tmp_path / "report.csv").write_text("slide\na.svs\n")
    with pytest.raises(UsageError, match="which is read"):
        check_cohort(tmp_path, [tmp_path / "report.csv"])
    with pytest.raises(UsageError, match="not made by wsisr"):
        check_cohort(tmp_path, [])
    (tmp_path / "report.csv").unlink()
    write_report([], tmp_path)
    check_cohort(tmp_path, [tmp_path])


def test_events_are_appended_to_events_alone(tmp_path: Path) -> None:
    asked = job(tmp_path / "in.tif")
    for name, content in (("a.csv", b"precious\n"), ("b.json", b'{"type": "FeatureCollection"}')):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(OptionError, match="log_json"), open_events(tmp_path / name, asked):
            pass
        assert (tmp_path / name).read_bytes() == content
    (tmp_path / "in.tif").touch()
    for taken in ("in.tif", "out.ome.tif", "out.ome.tif.journal"):
        with pytest.raises(OptionError, match="log_json"), open_events(tmp_path / taken, asked):
            pass
    for _ in range(2):
        with open_events(tmp_path / "events.jsonl", asked) as events:
            events.warning("x")
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 2
