"""What commands import: mistakes are told, and slides described, before torch is loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
DIFFUSERS = frozenset({"diffusers", "transformers", "accelerate", "sympy", "torchvision"})
"""What diffusers brings along: seconds."""
HEAVY = DIFFUSERS | {"torch"} | {"scipy", "skimage", "numba", "zarr", "distributed", "pandas"}
PROBE = """
import json, sys
from wsisr.cli import run
sys.argv[0] = "wsisr"
try:
    run()
finally:
    print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
"""


@dataclass(frozen=True)
class Told:
    """What a command left behind.

    Attributes:
        code: its exit code.
        message: its last line on stderr.
        packages: top-level packages that it imported.
    """

    code: int
    message: str
    packages: frozenset[str]


def tell(folder: Path, *arguments: str) -> Told:
    """Runs a command in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "kernels")))},
    )
    *said, packages = done.stderr.splitlines()
    return Told(done.returncode, said[-1] if said else "", frozenset(json.loads(packages)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a slide, an output that is there, and a file that is no slide."""
    folder = tmp_path_factory.mktemp("start")
    pixels = np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "in.png")
    (folder / "there.ome.tif").write_bytes(b"precious")
    (folder / "noslide.svs").write_bytes(b"nothing")
    return folder


MISTAKES = [
    ("missing.svs out.ome.tif", "missing.svs does not exist"),
    ("noslide.svs out.ome.tif", "is not a slide"),
    ("in.png there.ome.tif", "there.ome.tif exists; give --overwrite"),
    ("in.png out.tif", "must end in one of .ome.tif"),
    ("in.png nowhere/out.ome.tif", "the folder nowhere does not exist"),
    ("in.png out.ome.tif --scale 4", "records no resolution"),
    ("in.png out.ome.tif --input-mag 10 --level 3", "has the levels 0 to 0"),
    ("in.png out.ome.tif --input-mag 10 --scale 0.5", "must be greater than 1"),
    ("in.png out.ome.tif --input-mag 10 --scale 100", "at most 8 without --force"),
    ("in.png out.ome.tif --input-mag 10 --region 90,90,90,90", "reaches outside the slide"),
    ("in.png out.ome.tif --input-mag 10 --window 100", "must be a multiple of 64"),
    ("in.png out.ome.tif --input-mag 10 --overlap 400", "must be a multiple of 8"),
    ("in.png out.ome.tif --input-mag 10 --consistency exact", "a lossy output would undo it"),
    ("in.png out.ome.tif --input-mag 10 --model nosuch", "neither a known model"),
    ("in.png out.ome.tif --input-mag 10 --model .", "no model.json in it"),
    ("in.png out.ome.tif --input-mag 10 --sampler nosuch", "must be one of spaced-ddpm"),
    ("in.png out.ome.tif --input-mag 10 --steps 0", "must lie between 1 and 1000"),
    ("in.png out.ome.tif --input-mag 10 --strength 3", "must lie between 0 and 1"),
    ("in.png out.ome.tif --input-mag 10 --uncertainty 1", "needs at least 2 samples"),
    ("in.png out.ome.tif --input-mag 10 --uncertainty 2 --fidelity 1", "makes the same image"),
    ("in.png out.ome.tif --input-mag 10 --model bicubic --compile", "no blocks to compile"),
    ("in.png out.ome.tif --input-mag 10 --gpus 0 --device cpu", "contradicts --device cpu"),
    ("in.png out.ome.tif --input-mag 10 --workers 9999 --device cpu", "CPU cores"),
    ("in.png out.ome.tif --tile 17", "not a multiple of 16"),
    ("in.png out.ome.tif --no-such-option", "No such option"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_mistakes_are_told_before_anything_heavy_is_imported(
    folder: Path, arguments: str, message: str
) -> None:
    told = tell(folder, "upscale", *arguments.split())
    assert told.code in (1, 2)
    assert message in told.message
    assert not told.packages & HEAVY
    assert (folder / "there.ome.tif").read_bytes() == b"precious"


def test_a_missing_mask_is_told_before_torch_is_imported(folder: Path) -> None:
    told = tell(
        folder, *["upscale", "in.png", "out.ome.tif", "--input-mag", "10", "--tissue", "mask.png"]
    )
    assert "neither auto, off, nor an existing mask" in told.message
    assert not told.packages & HEAVY


@pytest.mark.parametrize("command", ["info in.png", "info missing.svs", "--help", "upscale --help"])
def test_what_only_describes_imports_nothing_heavy(folder: Path, command: str) -> None:
    assert not tell(folder, *command.split()).packages & (HEAVY | {"cv2", "pydantic"})


@pytest.mark.parametrize("command", ["models list", "models show tiny"])
def test_models_are_described_without_torch(folder: Path, command: str) -> None:
    told = tell(folder, *command.split())
    assert told.code == 0
    assert not told.packages & HEAVY


@pytest.mark.parametrize("model", ["tiny", "bicubic"])
def test_a_run_does_without_diffusers(folder: Path, model: str) -> None:
    options = ["--input-mag", "10", "--window", "64", "--overlap", "8", "--region", "0,0,32,32"]
    told = tell(folder, "upscale", "in.png", f"{model}.ome.tif", "--model", model, *options)
    assert told.code == 0
    assert "torch" in told.packages
    assert not told.packages & DIFFUSERS


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("convert missing.svs out.ome.tif", "missing.svs does not exist"),
        ("convert in.png there.ome.tif", "there.ome.tif exists; give --overwrite"),
        ("convert in.png out.tif", "must end in one of .ome.tif"),
        ("upscale in.png out.ome.tif --dry-run --input-mag 10 --model nosuch", "neither a known"),
        ("upscale missing.svs out.ome.tif --dry-run", "missing.svs does not exist"),
    ],
)
def test_other_commands_tell_mistakes_as_soon(folder: Path, command: str, message: str) -> None:
    told = tell(folder, *command.split())
    assert message in told.message
    assert not told.packages & HEAVY
