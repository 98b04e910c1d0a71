"""Models from models: means, and changes that leave the other scales as they are."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import train.merge
from tests.models.conftest import PARTS, save_small_model, small_restoration, small_vae
from tests.models.files.test_folder import small_files
from tests.models.test_scales import change
from train.merge import main, shares
from wsisr.engine.array import upscale_image
from wsisr.models import from_pretrained
from wsisr.models.files.parts import load_state
from wsisr.models.networks.lora import LORA_SUFFIXES, adapt, low_rank_factors

SCALES = [2, 4, 8]


def vary(folder: Path, part: str = "restoration", seed: int = 0, ends: str = "") -> None:
    """Move the weights of a part, or those with a name that ends so, by random numbers."""
    (file,) = (folder / part).glob("*.safetensors")
    generator = torch.Generator().manual_seed(seed)
    state = load_file(file)
    for key, value in state.items():
        if key.endswith(ends) and (value.ndim == 4 or ends):
            noise = torch.randn(value.shape, generator=generator)
            state[key] = value + 0.05 * noise.to(value)
    save_file(state, file, {"format": "pt"})


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """A model for three scales and two whose stage 1 and autoencoder differ from it."""
    base = change(save_small_model(tmp_path / "base"), scales=SCALES)
    folders = [base]
    for seed in (1, 2):
        folder = tmp_path / f"other{seed}"
        shutil.copytree(base, folder)
        vary(folder, seed=seed)
        vary(folder, "vae", seed=seed)
        folders.append(folder)
    return folders


def command(*arguments: object) -> int:
    return main([str(a) for a in arguments])


def test_a_mean_has_each_in_its_share(three: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert command("--out", out, f"{three[0]}=1", f"{three[1]}=1", f"{three[2]}=2") == 0
    for part in ("restoration", "vae", "unet", "controlnet"):
        states = [load_state(folder / part) for folder in three]
        made = load_state(out / part)
        assert made.keys() == states[0].keys()
        for key, value in made.items():
            wanted = (states[0][key] + states[1][key] + 2 * states[2][key]) / 4
            torch.testing.assert_close(value, wanted, rtol=1e-3, atol=1e-4)
    assert from_pretrained(out, scale=4).second is not None
    assert shares(["a=1", "b", "a=2"]) == {Path("a"): 3, Path("b"): 1}


def test_one_scale_moves_and_no_other(three: list[Path], tmp_path: Path) -> None:
    lr = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    base, one, other = three
    out, again = tmp_path / "out", tmp_path / "again"
    assert command("--out", out, base, "--scale", 4, "--towards", one, "--rank", 64) == 0
    for scale in SCALES:
        images = [
            upscale_image(lr, scale, model=str(folder), window=128, overlap=32, seed=1)
            for folder in (base, out, one)
        ]
        # of full rank it is the other model there, but for half precision
        same, there = (
            (np.abs(images[1].astype(int) - i) > 1).mean() for i in (images[0], images[2])
        )
        assert (same > 0.1 and there < 0.02) if scale == 4 else same == 0, scale
    # a second scale keeps what the first has, a mean keeps nothing
    assert command("--out", again, out, "--scale", 8, "--towards", other, "--rank", 64) == 0
    first, second = (load_state(folder / "restoration") for folder in (out, again))
    for key, value in second.items():
        if key.endswith(LORA_SUFFIXES):
            assert torch.equal(value[:2], first[key][:2]), key
            assert not value[0].any(), key
    assert any(value[2].any() for key, value in second.items() if key.endswith(LORA_SUFFIXES))
    # less rank than there is already does no harm to the other scale
    small = tmp_path / "small"
    assert command("--out", small, again, "--scale", 8, "--towards", other, "--rank", 1) == 0
    for scale, same in ((4, True), (8, False)):
        states = [from_pretrained(f, scale=scale).restoration.state_dict() for f in (small, again)]
        assert all(torch.equal(states[0][key], v) for key, v in states[1].items()) == same
    # what is aimed at is what the model is at that scale
    told = from_pretrained(again, scale=4).restoration.state_dict()
    third = tmp_path / "third"
    assert command("--out", third, base, "--scale", 4, "--towards", again, "--rank", 64) == 0
    for key, value in from_pretrained(third, scale=4).restoration.state_dict().items():
        torch.testing.assert_close(value, told[key], rtol=1e-3, atol=1e-3)
    alone = tmp_path / "alone"
    assert command("--out", alone, again) == 0
    for key, value in load_state(alone / "vae").items():
        assert torch.equal(value, load_state(again / "vae")[key]), key


def test_a_mean_has_the_mean_of_each_scale(three: list[Path], tmp_path: Path) -> None:
    base, one, other = three
    told, made = tmp_path / "told", tmp_path / "made"
    aims = (f"{one}=1", f"{other}=3")
    assert command("--out", told, base, "--scale", 4, "--towards", *aims, "--rank", 64) == 0
    assert command("--out", made, f"{told}=1", f"{one}=1", "--rank", 64) == 0
    key = "conv_first.1.weight"
    bare = [load_state(folder / "restoration")[key] for folder in three]
    aim = (bare[1] + 3 * bare[2]) / 4
    for scale, wanted in ((2, bare[0]), (4, aim), (8, bare[0])):
        state = from_pretrained(told, scale=scale).restoration.state_dict()
        torch.testing.assert_close(state[key], wanted, rtol=1e-3, atol=1e-3)
        state = from_pretrained(made, scale=scale).restoration.state_dict()
        torch.testing.assert_close(state[key], (wanted + bare[1]) / 2, rtol=1e-3, atol=1e-3)


def test_the_change_is_the_nearest_of_its_rank() -> None:
    torch.manual_seed(0)
    wanted = torch.randn(8, 5, 3, 3)
    errors = []
    for rank in (1, 4, 8, 20):
        down, up = low_rank_factors(wanted, rank)
        assert (down.shape, up.shape) == ((min(rank, 8), 45), (8, min(rank, 8)))
        errors.append(float((up @ down - wanted.flatten(1)).norm()))
    values = torch.linalg.svdvals(wanted.flatten(1))
    expected = [float(values[rank:].norm()) for rank in (1, 4, 8, 20)]
    assert errors == pytest.approx(expected, abs=1e-4)


def test_what_does_not_fit_is_refused(
    three: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, one, _ = three
    out = tmp_path / "out"
    unet, odd, wider, lacking, large = (
        tmp_path / name for name in ("unet", "odd", "wider", "lacking", "large")
    )
    for folder in (unet, odd, wider, lacking, large):
        shutil.copytree(base, folder)
    shutil.rmtree(wider / "vae")
    small_vae(width=12).save_pretrained(wider / "vae")
    (lacking / "vae" / "config.json").unlink()
    (file,) = (large / "vae").glob("*.safetensors")
    save_file({key: 1e6 + 0 * value for key, value in load_file(file).items()}, file)
    vary(unet, "unet", ends="norm1.weight")
    net: nn.Module = small_restoration()
    adapt(net, 2, 3)  # of a model of two scales
    shutil.rmtree(odd / "restoration")
    net.save_pretrained(odd / "restoration")  # type: ignore[operator]
    two = tmp_path / "two"
    shutil.copytree(base, two)
    change(two, scales=[2, 4])
    to = ("--scale", 4, "--towards")
    for arguments, line in (
        ((base, "--scale", 4), "--scale and --towards need each other"),
        ((base, "--towards", one), "--scale and --towards need each other"),
        ((base, "--scale", 3, "--towards", one), "--scale 3: .* knows"),
        ((base, *to, one, "--rank", 0), "--rank 0: must be 1 or more"),
        ((base, *to, unet), r"unet: .*norm1\.weight differs, but a scale can only change"),
        ((base, *to, wider), "vae: the models of --towards are of another network"),
        ((base, wider), "wider/vae: not the network of the first model"),
        ((base, odd), "odd/restoration: what .* fits neither"),
        ((lacking, base), r"lacking/vae: part missing \(no config\.json\)"),
        ((large,), r"error: \S*/large/vae: .* too large for half precision"),
        ((base, large), r"error: \S*/base/vae, \S*/large/vae: .* too large for half precision"),
        ((base, two), "two: not of the same parts and scales"),
        ((f"{base}=x", one), "give FOLDER=SHARE"),
        ((f"{base}=0", f"{one}=0"), "shares must be finite, 0 or more"),
        ((f"{base}=-1", f"{one}=2"), "shares must be finite, 0 or more"),
        ((f"{base}=nan", one), "shares must be finite, 0 or more"),
        ((base, tmp_path / "none"), "none: "),
    ):
        assert command("--out", out, *arguments) != 0, line
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        pattern = re.compile(line)
        assert pattern.search(error), (line, error)
        assert not out.exists(), line
    assert command("--out", base, one) == 2
    assert "is there already" in capsys.readouterr().err


def test_one_model_that_is_broken_is_refused_by_its_own_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save_small_model(tmp_path / "base")
    out, folder = tmp_path / "out", tmp_path / "broken"
    prompt = folder / "prompt" / "prompt.safetensors"
    wide = json.loads((base / "unet" / "config.json").read_text()) | {"cross_attention_dim": 16}

    def without_unet() -> None:
        change(folder, parts={part: name for part, name in PARTS.items() if part != "unet"})
        save_file({"prompt": torch.zeros(1, 9)}, prompt)

    for broken, line in (
        (
            lambda: (folder / "vae" / "config.json").write_text("{"),
            r"vae/config\.json: not readable as JSON",
        ),
        (lambda: (folder / "unet" / "config.json").write_text(json.dumps(wide)), "unet: .* shape"),
        (
            lambda: change(folder, parts={**PARTS, "vae": "AutoencoderKL"}),
            "vae/config.*: not a Aut",
        ),
        (
            lambda: change(folder, parts={**PARTS, "vae": "Net"}),
            r"model\.json: vae is a 'Net', not",
        ),
        (lambda: change(folder, parts={**PARTS, "x": "Net"}), r"model\.json: 'x' is no part"),
        (lambda: shutil.rmtree(folder / "prompt"), "prompt: needs a tensor `prompt`"),
        (lambda: save_file({"prompt": torch.zeros(1, 9)}, prompt), r"prompt: .* \(tokens, 8\)"),
        (lambda: save_file({"other": torch.zeros(1, 8)}, prompt), r"prompt: .* \(tokens, 8\)"),
        (without_unet, r"prompt: .* \(tokens, 8\)"),
    ):
        shutil.copytree(base, folder)
        broken()
        assert command("--out", out, folder) == 1, line
        error = capsys.readouterr().err
        assert error.startswith(f"error: {folder}/"), error
        assert re.search(line, error), (line, error)
        assert error.count("\n") == 1
        assert not out.exists()
        shutil.rmtree(folder)


def test_what_stops_the_writing_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base, out = save_small_model(tmp_path / "base"), tmp_path / "out"
    with small_files(100_000):  # the second of the parts does not fit
        assert command("--out", out, base) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {out} cannot be written (")
    assert "File too large" in error
    assert error.count("\n") == 1
    assert not out.exists()

    saved: list[object] = []

    def save_one(*arguments: object) -> None:
        saved.append(arguments)
        if len(saved) == 2:
            raise KeyboardInterrupt
        save_file(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(train.merge, "save_file", save_one)
    assert command("--out", out, base) == 130
    assert capsys.readouterr().err == "interrupted; nothing was written\n"
    assert not out.exists()
