from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from PIL import Image

from tests.processes import Run, wsisr
from wsisr.cli.grouping import GROUPS, GroupedCommand
from wsisr.cli.main import cli, smaller, spell, way_on
from wsisr.errors import OptionError
from wsisr.pyramid import PyramidSpec, open_writer
from wsisr.pyramid.records import journal_path, read_journal


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "in.png"
    Image.fromarray(np.random.default_rng(0).integers(80, 200, (60, 80, 3), np.uint8)).save(path)
    return path


def test_json_is_the_only_thing_on_stdout(picture: Path) -> None:
    out = picture.with_name("out.ome.tif")
    done = wsisr(
        "upscale", picture, out, "--input-mag", 10, "--model", "bicubic", "--json", "--scale", 4
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    wanted = (
        "output width height mpp magnification levels windows tissue_windows resumed_tiles "
        "resumed_rows damaged_source_tiles model steps seed seconds peak_rss_mb sha256_pixels"
    )
    assert set(wanted.split()) <= set(facts)
    assert (facts["width"], facts["height"], facts["mpp"]) == (320, 240, 0.25)
    assert tifffile.TiffFile(out).is_ome


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("missing.svs", "o.ome.tif"), 1, "missing.svs"),
        ((".", "o.ome.tif"), 1, "folder"),
        (("in.png", "o.ome.tif"), 1, "--input-mpp"),
        (("in.png", "o.jpg", "--input-mag", "10"), 2, "ome.tif"),
        (("in.png", "o.ome.tif", "--input-mag", "10", "--scale", "1"), 2, "--scale"),
        (("in.png", "o.ome.tif", "--input-mag", "10", "--region", "1,2,3"), 2, "X,Y,W,H"),
        (("in.png", "o.ome.tif", "--input-mag", "10", "--model", "nope"), 1, "nope"),
        (("in.png", "no/o.ome.tif", "--input-mag", "10"), 1, "no"),
        (("in.png", "o.ome.tif", "--input-mag", "0"), 2, "--input-mag"),
        (("in.png", "o.ome.tif", "--input-mag", "10", "--window", "100"), 2, "--window 100"),
        (("in.png", "o.ome.tif", "--input-mag", "10", "--tile", "100"), 2, "is --window"),
        (("in.png", "o.ome.tif", "--input-mag", "10", "--tile", "big"), 2, "--tile"),
        (("in.png", "o.ome.tif", "--input-mag", "10", "--sampler", "nope"), 2, "dpm-solver++"),
        (("in.png", "o.ome.tif", "--mpp", "1"), 2, "--input-mpp"),
        (("in.png", "o.ome.tif", "--magnification", "10"), 2, "--input-mag"),
        (("in.png",), 2, "OUT"),
    ],
)
def test_errors_are_one_line_with_the_right_code(
    picture: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    before = sorted(picture.parent.iterdir())
    done = wsisr("upscale", *arguments, cwd=picture.parent)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert sorted(picture.parent.iterdir()) == before
    if code == 1:
        assert len(done.stderr.strip().splitlines()) == 1


def recorded_tiles(out: Path) -> int:
    """Tiles of level 0 that the journal of an unfinished output holds."""
    path = journal_path(out)
    found = read_journal(path) if path.exists() else None
    return len({r.address for r in found[1] if r.address[0] == 0}) if found else 0


def wait_until(process: Run, ready: Callable[[], bool]) -> None:
    """Until `ready`; fails if the process ends before."""
    deadline = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, "the run ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_goes_on_where_it_stopped(picture: Path, stop: signal.Signals) -> None:
    big, out = picture.with_name("big.png"), picture.with_name("out.ome.tif")
    pixels = np.random.default_rng(0).integers(80, 200, (450, 450, 3), np.uint8)
    Image.fromarray(pixels).save(big)
    options = ("--input-mag", 5, "--model", "bicubic", "--scale", 8, "--compression", "deflate")
    process = Run("upscale", big, out, *options)
    unfinished = picture.with_name("out.ome.tif.partial")
    # the first row of 8 tiles, and more than the encoders may have in hand
    wait_until(process, lambda: recorded_tiles(out) >= 8 + 7)
    process.send_signal(stop)
    stopped = process.wait(60)
    assert not out.exists()
    assert unfinished.exists()
    if stop != signal.SIGKILL:
        assert stopped.returncode == 130
        assert "goes on where" in stopped.stderr
        assert "Traceback" not in stopped.stderr
    again = wsisr("upscale", big, out, *options, "--json")
    assert again.returncode == 0, again.stderr
    assert "it goes on from an unfinished run" in again.stderr
    facts = json.loads(again.stdout)
    assert facts["resumed_rows"] > 0
    whole = picture.with_name("whole.ome.tif")
    first = wsisr("upscale", big, whole, *options, "--json")
    assert first.returncode == 0
    assert facts["sha256_pixels"] == json.loads(first.stdout)["sha256_pixels"]
    with tifffile.TiffFile(out) as a, tifffile.TiffFile(whole) as b:
        for one, other in zip(a.series[0].levels, b.series[0].levels, strict=True):
            np.testing.assert_array_equal(one.asarray(), other.asarray())
    assert sorted(f.name for f in picture.parent.glob("out*")) == ["out.ome.tif"]


def test_the_way_on_after_an_interruption() -> None:
    same = "the same command goes on where this one stopped"
    assert way_on(["wsisr", "upscale"]) == same
    assert way_on(["wsisr", "batch", "--overwrite"]) == same
    assert way_on(["wsisr", "upscale", "--overwrite", "--resume"]) == same
    for option in ("--overwrite", "--no-resume"):
        assert "with --resume goes on" in way_on(["wsisr", "upscale", option])
    assert way_on(["wsisr", "eval"]) == "the same command starts anew"


def test_memory_that_ran_out_has_a_remedy_for_each_command() -> None:
    assert smaller(["wsisr", "upscale", "a", "b"]) == "give a smaller --batch or --window"
    assert smaller(["wsisr", "--debug", "eval", "a"]) == "give fewer --workers"
    assert smaller(["wsisr", "info", "a"]) == "close other programs"


def test_arguments_of_the_api_are_spelled_as_options() -> None:
    error = OptionError("input_mpp", 0.5, "must fit to <output>, else leave <color_fix> out")
    assert error.spelled(spell) == "--input-mpp 0.5: must fit to OUT, else leave --color-fix out"


def test_old_names_of_options_lead_to_the_new_ones() -> None:
    for old, new in (("--mpp", "--input-mpp"), ("--magnification", "--input-mag")):
        refused = CliRunner().invoke(cli, ["convert", "a.svs", "b.ome.tif", old, "1"])
        assert refused.exit_code == 2
        assert f"No such option '{old}'. Did you mean '{new}'?" in refused.output


def commands(group: click.Group = cli) -> list[click.Command]:
    """All commands that do something."""
    found: list[click.Command] = []
    for command in group.commands.values():
        found += commands(command) if isinstance(command, click.Group) else [command]
    return found


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.callback.__name__)
def test_every_option_has_a_group_and_a_sentence(command: click.Command) -> None:
    assert isinstance(command, GroupedCommand)
    assert command.help is not None
    assert command.help.split("\n")[0].endswith(".")
    options = [param for param in command.params if isinstance(param, click.Option)]
    for option in options:
        assert getattr(option, "group", None) in GROUPS, option.name
        assert option.help, option.name
        assert option.help[0].isupper(), option.name
        assert option.help.endswith("."), option.name
        assert len(option.help.split()) > 2, option.name
    shown = CliRunner().invoke(cli, [*path_of(command), "--help"]).output
    headings = [line.rstrip(":") for line in shown.splitlines() if line and line[0] != " "][1:]
    assert headings == [group for group in GROUPS if group in headings]
    for option in options:
        assert option.opts[0] in shown
    assert "--help" in shown


def path_of(command: click.Command) -> list[str]:
    """The words behind `wsisr` that lead to a command."""
    for name, other in cli.commands.items():
        if other is command:
            return [name]
        if isinstance(other, click.Group) and command in other.commands.values():
            return [name, str(command.name)]
    raise AssertionError(command)


def test_an_overwriting_run_can_be_gone_on_from(picture: Path) -> None:
    out = picture.with_name("out.ome.tif")
    options = ("--input-mag", "10", "--model", "bicubic", "--scale", "4")
    assert CliRunner().invoke(cli, ["upscale", str(picture), str(out), *options]).exit_code == 0
    older = out.read_bytes()
    spec = PyramidSpec(320, 240, 0.25, 40)
    with open_writer(out, spec, overwrite=True, fingerprint="x") as writer:
        writer.write_tile(0, 0, np.zeros((240, 320, 3), np.uint8))
        writer.abort(keep=True)
    command = ["upscale", str(picture), str(out), *options, "--overwrite"]
    refused = CliRunner().invoke(cli, [*command, "--resume"])
    assert "unfinished run" in str(refused.exception)
    assert out.read_bytes() == older
    assert CliRunner().invoke(cli, command).exit_code == 0
    assert tifffile.TiffFile(out).is_ome


def test_another_job_does_not_go_on_from_it(picture: Path) -> None:
    out = picture.with_name("out.ome.tif")
    big = picture.with_name("big.png")
    pixels = np.random.default_rng(0).integers(80, 200, (450, 450, 3), np.uint8)
    Image.fromarray(pixels).save(big)
    options = ("--input-mag", 5, "--model", "bicubic", "--scale", 8)
    process = Run("upscale", big, out, *options)
    wait_until(process, lambda: recorded_tiles(out) > 0)
    process.send_signal(signal.SIGKILL)
    process.wait()
    other = wsisr("upscale", big, out, *options, "--overlap", 128)
    assert other.returncode == 2
    assert "--overwrite" in other.stderr
    assert wsisr("upscale", big, out, *options, "--overlap", 128, "--overwrite").returncode == 0


def test_info(picture: Path) -> None:
    done = wsisr("info", picture, "--json")
    facts = json.loads(done.stdout)
    assert (facts["width"], facts["height"], facts["mpp"]) == (80, 60, None)
    assert "not recorded" in wsisr("info", picture).stdout


def test_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "wsisr", "upscale", "missing.svs", "o.ome.tif"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("wsisr: missing.svs")


@pytest.mark.parametrize("stream", ["stdout", "stderr", "both"])
def test_a_full_disk_behind_a_stream_is_told_in_one_line(picture: Path, stream: str) -> None:
    with Path("/dev/full").open("w") as full:
        streams = {name: full for name in ("stdout", "stderr") if stream in (name, "both")}
        done = subprocess.run(
            [sys.executable, "-m", "wsisr", "info", str(picture)],
            text=True,
            check=False,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams},  # type: ignore[call-overload]
        )
    assert done.returncode == (0 if stream == "stderr" else 1)
    if stream == "stdout":
        assert done.stderr == (
            "wsisr: stdout: No space left on device; make room, or write elsewhere\n"
        )


def test_doctor_names_what_it_looked_at() -> None:
    done = wsisr("doctor")
    assert "torch" in done.stdout
    assert "openslide library" in done.stdout
    assert done.returncode == ("missing" in done.stdout)


def test_the_core_never_imports_torchvision() -> None:
    code = (
        "import sys; sys.modules['torchvision'] = None; sys.modules['timm'] = None\n"
        "import wsisr, wsisr.cli.main, wsisr.doctor, wsisr.engine, wsisr.models\n"
        "wsisr.engine.upscale, wsisr.models.load_upscaler, wsisr.evaluate"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 0, done.stderr


def test_real_slides(data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.ome.tif"
    common = ("--model", "bicubic", "--region", "0,0,400,300", "--json", "--overwrite")
    no_mpp = data_dir / "slides" / "tcga-cr-7395-01a-01-ts1.svs"
    refused = wsisr("upscale", no_mpp, out, "--scale", 2, *common)
    assert refused.returncode == 1
    assert "--input-mpp" in refused.stderr
    assert wsisr("upscale", no_mpp, out, "--scale", 2, "--input-mpp", 0.5, *common).returncode == 0
    cmu = wsisr(
        "upscale",
        data_dir / "slides" / "cmu-1-small-region.svs",
        out,
        "--input-mag",
        5,
        *common,
    )
    facts = json.loads(cmu.stdout)
    assert facts["magnification"] == 40
    assert facts["width"] == 800
    broken = wsisr("upscale", data_dir / "slides" / "broken.svs", out, *common)
    assert broken.returncode == 1
    assert "broken.svs" in broken.stderr
