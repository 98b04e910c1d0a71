from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from wsisr import doctor
from wsisr.evaluation.weights import REGISTRY, WEIGHTS_VARIABLE


def line(subject: str) -> doctor.Check:
    (found,) = (check for check in doctor.examine() if check.subject == subject)
    return found


def test_weights_of_measures_are_listed_with_their_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    assert line(WEIGHTS_VARIABLE).detail.startswith(f"{tmp_path}: none; measures and segmenters ")
    (tmp_path / "brisque").mkdir()
    (tmp_path / "brisque" / "svm.txt").write_text("a model")
    found = line(WEIGHTS_VARIABLE)
    assert found.state == "note"
    assert found.detail.startswith(f"{tmp_path}: brisque; ")
    assert "musiq" in found.detail
    assert "models fetch" in found.detail
    monkeypatch.setattr(doctor, "REGISTRY", {"brisque": REGISTRY["brisque"]})
    assert line(WEIGHTS_VARIABLE) == doctor.Check(WEIGHTS_VARIABLE, "ok", f"{tmp_path}: brisque")


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """Versions to pretend; None is not installed."""
    real = importlib.metadata.version
    pretended: dict[str, str | None] = {}

    def version(name: str) -> str:
        if name not in pretended:
            return real(name)
        found = pretended[name]
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(importlib.metadata, "version", version)
    return pretended


def test_every_requirement_of_the_package_is_looked_at() -> None:
    subjects = {check.subject for check in doctor.examine()}
    for text in importlib.metadata.requires("wsisr") or ():
        requirement = Requirement(text)
        if requirement.marker is None:
            assert requirement.name in subjects
    assert {"spandrel", "tensorboard"} <= subjects
    assert not {"pytest", "ruff", "ome-types"} & subjects


def test_a_library_that_is_missing_or_too_old_has_a_remedy(
    versions: dict[str, str | None],
) -> None:
    versions |= {"tqdm": None, "click": "7.0"}
    assert line("tqdm").state == line("click").state == "missing"
    assert "pip install 'tqdm>=" in line("tqdm").detail
    assert line("click").detail.startswith("7.0 does not do; pip install 'click>=")


def test_a_library_that_cannot_be_loaded_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    assert line("imagecodecs").state == "missing"


def test_spandrel_is_there_or_how_to_get_it(versions: dict[str, str | None]) -> None:
    versions["spandrel"] = "9.9"
    assert line("spandrel") == doctor.Check("spandrel", "ok", "9.9")
    versions["spandrel"] = None
    found = line("spandrel")
    assert found.state == "note"
    assert "pip install 'wsisr[spandrel]'" in found.detail
