"""What a cohort knows of its slides ends with any file that makes their pixels."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wsisr.engine import Job
from wsisr.scaleout.cohort.ledger import request_of


@pytest.mark.parametrize("changed", ["s.mrxs", "s/Data0.dat", "mask.geojson", "model/model.json"])
def test_a_change_of_any_file_is_another_request(changed: str, tmp_path: Path) -> None:
    for name in ("s.mrxs", "s/Data0.dat", "mask.geojson", "model/model.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    job = Job(
        tmp_path / "s.mrxs",
        tmp_path / "out.ome.tif",
        tissue=str(tmp_path / "mask.geojson"),
        model=str(tmp_path / "model"),
    )
    before = request_of(job, "s.mrxs")
    assert request_of(job, "s.mrxs") == before
    os.utime(tmp_path / changed, ns=(0, 0))
    assert request_of(job, "s.mrxs") != before


def test_a_slide_that_is_not_there_has_a_request(tmp_path: Path) -> None:
    assert request_of(Job(tmp_path / "no.svs", tmp_path / "out.ome.tif"), "no.svs")
