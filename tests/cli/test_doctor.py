from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from wsisr import doctor
from wsisr.evaluation import weights


def line(subject: str) -> doctor.Check:
    (found,) = (check for check in doctor.examine() if check.subject == subject)
    return found


def test_weights_of_measures_are_listed_with_their_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(weights.WEIGHTS_VARIABLE, str(tmp_path))
    assert line(weights.WEIGHTS_VARIABLE).detail.startswith(
        f"{tmp_path}: none; measures and segmenters "
    )
    (tmp_path / "brisque").mkdir()
    (tmp_path / "brisque" / "svm.txt").write_text("a model")
    found = line(weights.WEIGHTS_VARIABLE)
    assert found.state == "note"
    assert found.detail.startswith(f"{tmp_path}: brisque; ")
    assert "musiq" in found.detail
    assert "models fetch" in found.detail
    for name in [*weights.REGISTRY]:
        if name != "brisque":
            monkeypatch.delitem(weights.REGISTRY, name)
    assert line(weights.WEIGHTS_VARIABLE) == doctor.Check(
        weights.WEIGHTS_VARIABLE, "ok", f"{tmp_path}: brisque"
    )


def test_spandrel_is_there_or_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str, present: bool) -> str:
        if name != "spandrel":
            return real(name)
        if not present:
            raise importlib.metadata.PackageNotFoundError(name)
        return "9.9"

    monkeypatch.setattr(importlib.metadata, "version", lambda name: version(name, True))
    assert line("spandrel") == doctor.Check("spandrel", "ok", "9.9")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version(name, False))
    found = line("spandrel")
    assert found.state == "note"
    assert "pip install 'wsisr[spandrel]'" in found.detail
