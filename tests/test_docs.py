"""README, docs and model cards name nothing that is not there, and their examples work."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
from PIL import Image

from tests.test_structure import MAY_IMPORT
from wsisr.cli import cli

ROOT = Path(__file__).resolve().parents[1]
CARDS = sorted((ROOT / "wsisr/models/weights").glob("*/README.md"))
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *CARDS,
]
ARCHITECTURE = ROOT / "docs/architecture.md"
TOP = ("wsisr", "train", "bench", "docs", "tests", "examples", "kernels", ".ci")
"""Folders of the repository whose files the pages name by their path from its root."""
ELLIPSES = {"...", "…"}

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yields the language and the text of each block of code, fenced or indented."""
    for found in re.finditer(r"^ *```(\w*)\n(.*?)^ *```$", text, flags=re.M | re.S):
        yield found[1], found[2]
    prose = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.M | re.S)
    for found in re.finditer(r"\n\n((?: {4}[^\n]*\n)+)", prose):
        if not re.search(r"^ {4}[|-] ", found[1], flags=re.M):
            yield "", re.sub(r"^ {4}", "", found[1], flags=re.M)


def inline_code(text: str) -> list[str]:
    prose = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.M | re.S)
    return [" ".join(found.split()) for found in re.findall(r"`([^`]+)`", prose)]


def commands(text: str) -> Iterator[str]:
    """Yields the command lines of the blocks that are no Python and no diff."""
    for language, block in blocks(text):
        if language in ("", "bash", "sh"):
            yield from block.replace("\\\n", " ").splitlines()


def anchors(page: Path) -> set[str]:
    """Gives the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


@pages
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


@pages
def test_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    words = {word for code in (*inline_code(text), *commands(text)) for word in code.split()}
    named = re.compile(rf"(?:{'|'.join(map(re.escape, TOP))})/[\w./-]*")
    missing = sorted(word for word in words if named.fullmatch(word) and not (ROOT / word).exists())
    assert not missing


def programs(text: str) -> Iterator[list[str]]:
    """Yields the words of each command, in blocks and in running text, from the program on."""
    for line in (*commands(text), *inline_code(text)):
        words = shlex.split(line, comments=True)
        if words[:1] == ["wsisr"] or (words[:1] == ["make"] and len(words) > 1):
            yield words
        elif words[:1] in (["python"], ["OMP_NUM_THREADS=1"], ["accelerate"]):
            start = words.index("-m") if "-m" in words else 0
            if words[start + 1 : start + 2] == ["wsisr"]:
                yield words[start + 1 :]
            elif len(words) > start + 1:
                yield ["python", *words[start + 1 :]]


@cache
def help_of(program: tuple[str, ...]) -> str:
    """Gives what a module, or a script, says to `--help`, run in this process."""
    name, *words = program
    said, argv = io.StringIO(), sys.argv
    sys.argv = [name, *words, "--help"]
    try:
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            if name.endswith(".py"):
                runpy.run_path(str(ROOT / name), run_name="__main__")
            else:
                runpy.run_module(name, run_name="__main__", alter_sys=True)
    finally:
        sys.argv = argv
    return said.getvalue()


def unknown_of_module(words: list[str]) -> list[str]:
    """Gives the options that a program of the project does not have, or the program itself."""
    name, *rest = words
    if "/" not in name and name.split(".")[0] not in ("wsisr", "train", "bench"):
        return []
    program = [name]
    if name in ("train", "bench.quality", "bench.speed"):
        named = [word for word in rest[:1] if not word.startswith("-")]
        if named and named[0].isupper():  # stands for any of them
            return []
        program += named or (["table"] if rest else [])
    try:
        text = help_of(tuple(program))
    except (ImportError, OSError) as error:
        return [f"{' '.join(program)}: {error}"]
    if "usage" not in text:
        return [f"{' '.join(program)}: no such program"]
    options = (word.partition("=")[0] for word in rest if re.match(r"--[a-z]", word))
    return [option for option in options if not re.search(rf"{option}(?![\w-])", text)]


def unknown_of_wsisr(words: list[str]) -> list[str]:
    """Gives the options of a `wsisr` command that do not exist, or the command itself."""
    command: click.Command = cli
    rest = words[1:]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.get_command(click.Context(command), rest[0])
        if found is None:
            return [] if rest[0] in ELLIPSES else [" ".join(words)]
        command, rest = found, rest[1:]
    known = {"--help", "-h"}.union(
        *((*option.opts, *option.secondary_opts) for option in command.params)
    )
    return [word for word in rest if word.startswith("-") and word.partition("=")[0] not in known]


@pages
def test_programs_and_options_that_are_named_exist(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    wrong = []
    for words in programs(page.read_text(encoding="utf-8")):
        if words[0] == "wsisr":
            unknown = unknown_of_wsisr(words)
        elif words[0] == "make":
            unknown = [word for word in words[1:] if "=" not in word and word not in targets]
        else:
            unknown = unknown_of_module(words[1:])
        wrong += [f"{' '.join(words)}: {each}" for each in unknown]
    assert not wrong, "\n".join(wrong)


@pages
def test_command_lines_of_wsisr_parse(page: Path) -> None:
    """Values are of the right kind, and nothing that a command needs is missing."""
    for line in commands(page.read_text(encoding="utf-8")):
        words = shlex.split(line, comments=True)
        if words[:1] != ["wsisr"]:
            continue
        command: click.Command = cli
        rest = words[1:]
        while isinstance(command, click.Group):
            found = command.get_command(click.Context(command), rest[0])
            assert found is not None, line
            command, rest = found, rest[1:]
        try:
            command.make_context(command.name, rest)
        except click.UsageError as error:
            pytest.fail(f"{line}: {error.format_message()}")


def test_the_options_of_the_readme_are_those_of_upscale() -> None:
    upscale = cli.get_command(click.Context(cli), "upscale")
    assert upscale is not None
    known = {name for option in upscale.params for name in option.opts}
    rows = re.findall(r"^\| (`--.*?) \|", (ROOT / "README.md").read_text(), flags=re.M)
    named = {name for row in rows for name in re.findall(r"--[a-z-]+", row)}
    assert len(named) > 20
    assert named <= known


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.parent.name)
def test_model_cards_are_one_page_with_licence(card: Path) -> None:
    text = card.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 70
    for needed in (
        "Serdar Balci and Memorial Pathology",
        "https://github.com/pathologyatlas",
        "doi:10.5281/zenodo.6382734",
        "Copyright (c) 2022 Pathology Atlas",
        "Not for diagnosis",
    ):
        assert needed in " ".join(text.split())


def test_records_of_trainings_stay_out_of_the_package() -> None:
    carried = {file.suffix for file in (ROOT / "wsisr/models/weights").rglob("*") if file.is_file()}
    assert carried <= {".md", ".json", ".safetensors"}


def tables(page: Path) -> set[str]:
    return set(re.findall(r"(?:^\|.*\n)+", page.read_text(encoding="utf-8"), flags=re.M))


@pytest.mark.parametrize("page", ["README.md", "wsisr/models/weights/tiny/README.md"])
def test_figures_that_stand_twice_agree(page: str) -> None:
    shared = tables(ROOT / page) & tables(ROOT / "docs/experiments.md")
    assert any("| tiny x4 |" in table for table in shared)


def test_the_layout_table_is_the_one_that_is_enforced() -> None:
    rows = re.findall(
        r"^\| `wsisr/(\w+)(?:/|\.py)` \|.*\| ([^|]*) \|$", ARCHITECTURE.read_text(), re.M
    )
    said = {room: set(allowed.split(", ")) for room, allowed in rows if allowed != "everything"}
    there = {file.stem for file in (ROOT / "wsisr").iterdir()} & set(MAY_IMPORT) - {"version"}
    assert set(said) == there
    for room in there:
        assert said[room] == (set(MAY_IMPORT[room].split()) or {"nothing"}), room


# What a newcomer does by the two diffs of docs/architecture.md


@pytest.fixture
def changed(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of the package to which the diff that makes the named file was applied."""
    new_file: str = request.param
    diffs = [text for language, text in blocks(ARCHITECTURE.read_text()) if language == "diff"]
    (diff,) = (text for text in diffs if f"+++ b/{new_file}\n" in text)
    without = shutil.ignore_patterns("*.safetensors", "__pycache__")
    shutil.copytree(ROOT / "wsisr", tmp_path / "wsisr", ignore=without)
    subprocess.run(
        ["git", "apply", "-C1", "-"],
        input=diff,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)},
        check=True,
    )
    assert (tmp_path / new_file).exists()
    return tmp_path


def run_changed(folder: Path, *arguments: str | Path) -> str:
    """Runs Python on a changed copy; gives what it prints on stdout."""
    path = os.pathsep.join([str(folder), str(ROOT / "kernels")])
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def one_line_registers(folder: Path, file: str) -> bool:
    """Whether a registering file grew by one line and its import alone."""
    before, after = (root / file for root in (ROOT, folder))
    old, new = (set(path.read_text().splitlines()) for path in (before, after))
    added = [line for line in new - old if not line.startswith(("from ", "import "))]
    return not old - new and len(added) == 1


USES_LEAP = """
import sys, click, numpy as np
from wsisr.cli import cli
from wsisr.engine import upscale_image

words = ["in.png", "out.ome.tif", "--sampler", "leap"]
cli.get_command(click.Context(cli), "upscale").make_context("upscale", words)
image = np.random.default_rng(0).integers(90, 250, (32, 32, 3), np.uint8)
made = [
    upscale_image(
        image, 2, model=sys.argv[1], device="cpu", window=64, overlap=16, precision="fp32",
        sampler=sampler, steps=1,
    ).astype(int)
    for sampler in ("leap", "ddim")
]
print(made[0].shape[0], abs(made[0] - made[1]).max())
"""
"""One step of DDIM leaps as well, so both make the same image but for rounding."""


@pytest.mark.parametrize("changed", ["wsisr/models/leap.py"], indirect=True)
def test_a_newcomer_adds_a_sampler(changed: Path) -> None:
    assert one_line_registers(changed, "wsisr/models/sampling.py")
    said = run_changed(changed, "-c", USES_LEAP, ROOT / "wsisr/models/weights/tiny")
    side, difference = map(int, said.split())
    assert side == 64
    assert difference <= 1


@pytest.mark.parametrize("changed", ["wsisr/evaluation/measures/luma_shift.py"], indirect=True)
def test_a_newcomer_adds_a_measure(changed: Path) -> None:
    assert one_line_registers(changed, "wsisr/evaluation/measures/table.py")
    for name, grey in (("sr", 120), ("hr", 100)):
        (changed / name).mkdir()
        Image.new("RGB", (64, 64), (grey, grey, grey)).save(changed / name / "tile.png")
    said = json.loads(
        run_changed(
            changed,
            "-m",
            "wsisr",
            "eval",
            "sr",
            "hr",
            "--tiles",
            "--metrics",
            "luma_shift",
            "--json",
        )
    )
    assert said["methods"]["sr"]["luma_shift"] == pytest.approx(20)
