"""Commands run where neither the package nor a home can be written, or say what to set."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest

import wsisr
import wsisr_kernels
from wsisr import caches, doctor
from wsisr.errors import OutputError
from wsisr.evaluation.weights import weights_folder
from wsisr.scaleout.remote import open_cache

UNKNOWN_USER = """
import pwd
def unknown(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = unknown
"""


@pytest.fixture(autouse=True)
def _anew() -> None:
    caches.temporary_folder.cache_clear()


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of a user whose home cannot be written."""
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: Path("/dev/null/none") / name)
    monkeypatch.setattr(caches.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv("WSISR_WEIGHTS", raising=False)
    return tmp_path


def test_a_folder_that_can_be_written(tmp_path: Path) -> None:
    assert caches.can_write(tmp_path / "not" / "there")
    (tmp_path / "file").touch()
    assert not caches.can_write(tmp_path / "file" / "below")
    assert not caches.can_write(Path("/dev/null/none"))


def test_without_a_home_nothing_is_called_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: Path("~/.cache") / name)
    assert caches.user_folder() is None

    def fail(name: str) -> Path:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr(platformdirs, "user_cache_path", fail)
    assert caches.user_folder() is None


def test_all_caches_share_a_temporary_folder_of_the_user_alone(homeless: Path) -> None:
    folder = caches.cache_folder()
    assert folder.parent == homeless
    assert folder.stat().st_mode & 0o777 == 0o700
    assert weights_folder() == folder / "weights"
    assert open_cache().folder == folder
    caches.temporary_folder.cache_clear()
    assert caches.cache_folder() == folder


def test_a_folder_that_somebody_else_could_write_to_is_not_used(homeless: Path) -> None:
    first = caches.cache_folder()
    first.chmod(0o777)
    caches.temporary_folder.cache_clear()
    assert caches.cache_folder() != first
    first.rmdir()
    (homeless / "elsewhere").mkdir(mode=0o700)
    first.symlink_to(homeless / "elsewhere")
    caches.temporary_folder.cache_clear()
    assert caches.cache_folder() != first


def test_libraries_get_a_place_only_where_the_user_has_none(
    homeless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in caches.VARIABLES:
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HF_HOME", "/own")
    monkeypatch.setattr(caches, "can_write", lambda folder: True)
    caches.prepare_caches()
    assert "NUMBA_CACHE_DIR" not in os.environ
    monkeypatch.setattr(caches, "can_write", lambda folder: "null" not in folder.parts)
    caches.prepare_caches()
    assert os.environ["NUMBA_CACHE_DIR"] == str(caches.cache_folder() / "numba")
    assert os.environ["HF_HOME"] == "/own"


def test_weights_in_a_home_that_cannot_be_written_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wsisr" / "weights").mkdir(parents=True)
    monkeypatch.delenv("WSISR_WEIGHTS", raising=False)
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / name)
    monkeypatch.setattr(caches, "can_write", lambda folder: tmp_path not in folder.parents)
    assert weights_folder() == tmp_path / "wsisr" / "weights"


def test_no_place_at_all_has_a_remedy(homeless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise FileNotFoundError("no usable temporary directory")

    assert doctor._caches().state == "note"
    monkeypatch.setattr(caches.tempfile, "gettempdir", fail)
    caches.temporary_folder.cache_clear()
    with pytest.raises(OutputError, match="set XDG_CACHE_HOME"):
        caches.cache_folder()
    assert doctor._caches().state == "missing"
    assert "set XDG_CACHE_HOME" in doctor._caches().detail


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package without compiled kernels, in which nothing can be written."""
    folder = tmp_path_factory.mktemp("installed")
    for package in (wsisr, wsisr_kernels):
        source = Path(package.__file__).parent
        leave = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, folder / source.name, ignore=leave)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o222)
    return folder


def run_homeless(
    installed: Path, place: Path, *arguments: object, home: str | None, **changes: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command as somebody whom no file makes way for; without `home` nobody knows them."""
    command = [sys.executable, "-m", "wsisr", *map(str, arguments)]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root writes everywhere, and there is no setpriv to take that away")
        command = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all", *command]
    path = [str(installed)]
    if home is None:
        site = place / "site"
        site.mkdir(exist_ok=True)
        (site / "sitecustomize.py").write_text(UNKNOWN_USER)
        path.insert(0, str(site))
    hidden = {"HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME", "WSISR_WEIGHTS"}
    environment = {name: text for name, text in os.environ.items() if name not in hidden}
    temporary = place / "tmp"
    temporary.mkdir(exist_ok=True)
    environment |= {"PYTHONPATH": os.pathsep.join(path), "TMPDIR": str(temporary)}
    environment |= {} if home is None else {"HOME": home}
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=place,
        env={**environment, "PYTHONDONTWRITEBYTECODE": "1", **changes},
    )


@pytest.mark.parametrize("home", [None, "file/home"])
def test_commands_without_a_home(installed: Path, tmp_path: Path, home: str | None) -> None:
    (tmp_path / "file").touch()
    home = None if home is None else str(tmp_path / home)
    for command in (["models", "list"], ["models", "show", "plain"]):
        done = run_homeless(installed, tmp_path, *command, home=home)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
    assert not (tmp_path / "~").exists()


def test_without_any_place_a_line_says_what_to_set(installed: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    code = (
        "import sys, tempfile\n"
        "def fail(): raise FileNotFoundError('no usable temporary directory')\n"
        "tempfile.gettempdir = fail\n"
    )
    site = tmp_path / "none"
    site.mkdir()
    (site / "sitecustomize.py").write_text(code)
    path = os.pathsep.join([str(site), str(installed)])
    home = str(closed)
    done = run_homeless(installed, tmp_path, "info", "a.svs", home=home, PYTHONPATH=path)
    assert done.returncode == 1
    assert done.stderr.startswith("wsisr: neither the user's folder")
    assert "set XDG_CACHE_HOME" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_run_without_a_home(installed: Path, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(60, 200, (200, 200, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    for command in (
        ["upscale", "in.png", "out.ome.tif", "--input-mag", 10, "--scale", 2, "--tissue", "off"],
        ["eval", "out.ome.tif", "--sr-mpp", 0.5, "--count", 1],
        ["doctor"],
    ):
        done = run_homeless(installed, tmp_path, *command, home=None)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
    assert "which may not last: set XDG_CACHE_HOME" in done.stdout
    assert not (tmp_path / "~").exists()
