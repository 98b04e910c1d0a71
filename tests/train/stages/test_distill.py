"""Few-step students and the plain baseline: what is trained is what runs, and losses fall."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from diffusers import AutoencoderTiny, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import train.run
from tests.train import small
from train.config import build, read_config
from train.data.degradation import agree, sampling, upsample
from train.data.pairs import PairConfig, make_pair
from train.data.tiles import load_tiles
from train.loop.command import Run
from train.loop.pictures import GAP
from train.stages.detail import join_networks
from train.stages.distill import DistillConfig, Student, adapt_to_scales, fit, write_model
from train.stages.export import assemble_model
from train.stages.plain import PlainConfig
from train.stages.plain import fit as fit_plain
from train.stages.stage1 import Stage1Config, starting_weights
from train.stages.stage1 import fit as fit_stage1
from wsisr.errors import ModelError, UsageError
from wsisr.evaluation.weights import store as weights
from wsisr.models import SHIPPED, ModelCard, WindowInput, from_pretrained, save_pretrained
from wsisr.models.files.card import read_card
from wsisr.models.files.parts import load_restoration, load_state
from wsisr.models.networks.controlnet import LatentControlNet
from wsisr.models.networks.lora import LORA_DOWN, LORA_SUFFIXES, LORA_UP
from wsisr.models.networks.plainnet import PlainNet
from wsisr.models.networks.swinir import SwinIR
from wsisr_kernels import philox_normal_batch

SAMPLING = {
    "sampler": "ddim",
    "steps": 2,
    "start_timestep": 249,
    "start_from": "condition",
    "fidelity": 0.1,
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of random small parts."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=4,
        use_linear_projection=True,
    )
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(0, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 0),
    )
    parts = {
        "restoration": SwinIR(embed_dim=16, depths=[2], num_heads=[2], num_feat=8),
        "vae": vae,
        "unet": unet,
        "controlnet": LatentControlNet.of_unet(unet),
    }
    folder = tmp_path_factory.mktemp("teacher")
    names = {name: type(part).__name__ for name, part in parts.items()}
    card = ModelCard("small", names, (2, 4), {}, SAMPLING)
    save_pretrained(folder, card, parts, torch.zeros(1, 8))
    return folder


def test_a_student_trains_on_the_path_of_inference(teacher: Path) -> None:
    settings = {"seed": 5, "precision": "fp32"}
    model = from_pretrained(teacher, settings=settings)
    assert model.second is not None
    stage1: PlainNet = PlainNet(width=8, blocks=1, detail=True)
    for layer in (stage1.last, stage1.last_detail):
        assert layer is not None
        nn.init.normal_(layer.weight, std=0.02)
    model.restoration = stage1
    hr = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    lr = (F.avg_pool2d(hr, 4) * 255).round() / 255
    maps = sampling(64, 4, torch.device("cpu"))
    expected = model([WindowInput(0, 0, lr[0], maps, maps)])

    student = Student(model.restoration, model.second, model.settings, False, False).eval()
    noise = torch.stack(
        [philox_normal_batch(5, step, [(0, 0)], 8, 8, 4, "cpu") for step in range(2)]
    )
    with torch.no_grad():
        image, restored = student(lr, noise, 4)
        first = agree(model.restoration(upsample(lr, 4).clamp(0, 1)).clamp(0, 1), lr).clamp(0, 1)
    torch.testing.assert_close(image, expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(restored, first)


@pytest.mark.parametrize("train_diffusion", [False, True])
@pytest.mark.parametrize("train_stage1", [False, True])
def test_all_of_a_student_but_what_is_frozen_learns(
    teacher: Path, train_stage1: bool, train_diffusion: bool
) -> None:
    model = from_pretrained(teacher)
    assert model.second is not None
    stage1: PlainNet = PlainNet(width=8, blocks=1, detail=True)
    assert stage1.last_detail is not None
    nn.init.normal_(stage1.last_detail.weight, std=0.02)
    student = Student(stage1, model.second, model.settings, False, train_stage1, train_diffusion)
    lr = torch.rand(2, 3, 16, 16)
    images, restored = student(lr, torch.randn(2, 6, 4, 8, 8), 4, samples=3)
    assert images.shape == (6, 3, 64, 64)
    assert restored.shape == (2, 3, 64, 64)
    assert float((images[:2] - images[2:4]).detach().abs().max()) > 1e-3  # other noise
    images.square().mean().backward(retain_graph=train_stage1)
    learning = {name for name, p in student.named_parameters() if p.grad is not None}
    assert not any(name.startswith("vae.encoder") for name in learning)
    assert any(name.startswith("vae.decoder") for name in learning)
    for part in ("diffusion.unet", "diffusion.controlnet"):
        assert any(name.startswith(part) for name in learning) == train_diffusion, part
    detail = "restoration.last_detail."
    own = {name for name in learning if name.startswith("restoration.")}
    assert {name for name in own if name.startswith(detail)}
    assert bool(own - {name for name in own if name.startswith(detail)}) == train_stage1
    # the finished image has no say in what is restored
    assert "restoration.last.weight" not in learning
    assert restored.requires_grad == train_stage1
    if train_stage1:
        restored.mean().backward()
        assert stage1.last.weight.grad is not None


def test_training_needs_neither_the_packages_of_slides_nor_numba(
    teacher: Path, tiles: Path, tmp_path: Path
) -> None:
    loop = {"iterations": 2, "validate_every": 2}
    values = {"teacher": str(teacher), "batch": 2, "crop": 64, "guided": True, "scales": [2]}
    perceptual = 0.0 if weights.why_missing("st_lpips") else 0.5
    loss = {"grid": 0.0, "perceptual": perceptual}
    values |= {"scale_weights": [1.0], "loss": loss, "loop": loop}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"distill": values}))
    missing = ("imagecodecs", "openslide", "tifffile", "zarr", "cv2", "numba", "skimage")
    # a module that is None in sys.modules counts as missing
    code = (
        "import sys; import torch, diffusers, accelerate\n"
        f"sys.modules.update(dict.fromkeys({missing!r}))\n"
        "from train.stages.distill import main; sys.exit(main())"
    )
    arguments = ["--config", "config.yaml", "--data", str(tiles), "--out", "run"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--workers", "2"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "not judged: the package" in done.stderr
    card = json.loads((tmp_path / "run" / "model" / "model.json").read_text())
    assert card["parts"]["vae"] == "GuidedAutoencoderTiny"
    assert from_pretrained(tmp_path / "run" / "model").second is not None


def test_written_models_carry_their_sampling(teacher: Path, tmp_path: Path) -> None:
    second = from_pretrained(teacher).second
    assert second is not None
    parts = {
        "restoration": from_pretrained(teacher).restoration,
        "vae": second.vae,
        "unet": second.diffusion.unet,
        "controlnet": second.diffusion.controlnet,
    }
    card = json.loads((teacher / "model.json").read_text())
    card |= {"scales": [4], "settings_by_scale": {"4": {"fidelity": 0.5}}}
    tuned, out = tmp_path / "tuned", tmp_path / "out"
    tuned.mkdir()
    (tuned / "model.json").write_text(json.dumps(card))
    write_model(out, tuned, parts, second.diffusion.prompt, {"steps": 1})
    settings = from_pretrained(out, scale=4).settings  # not the teacher's own for a scale
    assert (settings.steps, settings.start_timestep, settings.fidelity) == (1, 249, 0.1)
    assert next(second.vae.parameters()).dtype == torch.float32  # the run goes on in full


def test_the_shipped_config_makes_models_that_sample_as_the_shipped_one() -> None:
    config = build(DistillConfig, read_config(Path("train/configs/tiny.yaml"))["distill"])
    assert config.sampling == read_card(SHIPPED["tiny"]).sampling


def test_the_plain_network_starts_as_the_identity() -> None:
    x = torch.rand(1, 3, 64, 96)
    torch.testing.assert_close(PlainNet(width=8, blocks=2)(x), x)


SMALL = small.PAIRS | {
    "judged": 1,
    "loop": {"iterations": 40, "learning_rate": 3e-3, "save_every": 40, "validate_every": 40},
}


def titles(file: Path) -> int:
    """Columns of a picture of 128 px crops."""
    with Image.open(file) as strip:
        return (strip.width + GAP) // (128 + GAP)


def test_distillation_makes_a_better_model_that_loads(
    teacher: Path, tiles: Path, tmp_path: Path
) -> None:
    values = SMALL | {
        "teacher": str(teacher),
        "sampling": SAMPLING | {"steps": 1},
        "loss": {"adversarial": 0.001, "adversarial_from": 30},
    }
    fit(build(DistillConfig, values), Run(tiles, tmp_path))
    rows = small.log(tmp_path)
    # the restored image is as near in L1 as this texture allows: what is learnt is its contrast
    assert float(rows[-1]["contrast"]) < 0.8 * float(rows[0]["contrast"])
    assert float(rows[0]["adversarial"]) == 0 != float(rows[-1]["adversarial"])
    assert from_pretrained(tmp_path / "model").settings.steps == 1
    assert titles(tmp_path / "pictures" / "0000040.png") == 4  # LR, restored, result, HR


def test_what_is_drawn_for_changes_does_not_depend_on_how_paths_are_hashed(teacher: Path) -> None:
    config = build(DistillConfig, SMALL | {"teacher": str(teacher), "rank": 2, "scales": [4]})
    drawn = []
    for i in range(6):  # paths that are hashed in one order and in the other
        torch.manual_seed(0)
        networks = [load_restoration(teacher / "restoration") for _ in range(2)]
        names = (f"{teacher}/{i}a", f"{teacher}/{i}b")
        places = {Path(name): module for name, module in zip(names, networks, strict=True)}
        adapt_to_scales(config, (2, 4), places)
        downs = [v for m in networks for k, v in m.state_dict().items() if k.endswith(LORA_DOWN)]
        drawn.append(torch.cat([v.flatten() for v in downs]))
    assert drawn[0].std() > 0
    assert all(torch.equal(each, drawn[0]) for each in drawn)


def test_scales_get_changes_of_their_own_and_keep_them(
    teacher: Path, tiles: Path, tmp_path: Path
) -> None:
    loop = SMALL["loop"] | {"iterations": 6, "save_every": 3, "validate_every": 6}
    values = SMALL | {"teacher": str(teacher), "rank": 2, "stage1": 1.0, "loop": loop}
    values |= {"scales": [2, 4], "scale_weights": [0.5, 0.5], "train_encoder": True}
    values |= {"restoration": str(teacher / "restoration"), "guided": True}
    run = Run(tiles, tmp_path / "run")
    while not (run.out / "model").exists():  # in slices
        fit(build(DistillConfig, values), replace(run, minutes=0.001))
    made = {name: load_state(run.out / "model" / name) for name in ("restoration", "vae")}
    for state in made.values():
        numbers = {key: value for key, value in state.items() if key.endswith(LORA_UP)}
        assert len(numbers) > 5
        assert any(float((n[0] - n[1]).abs().max()) > 1e-4 for n in numbers.values())
    two, four = (from_pretrained(run.out / "model", scale=scale) for scale in (2, 4))
    for key, value in two.restoration.state_dict().items():
        if key.endswith("conv_first.1.weight"):
            assert not torch.equal(value, four.restoration.state_dict()[key])
    # a student of that model goes on from them without being told to
    values |= {"teacher": str(run.out / "model"), "rank": 0}
    values |= {"restoration": "", "loop": loop | {"iterations": 1, "learning_rate": 0.0}}
    fit(build(DistillConfig, values), Run(tiles, tmp_path / "more"))
    for name, state in made.items():
        again = load_state(tmp_path / "more" / "model" / name)
        assert again.keys() == state.keys()
        assert all(torch.equal(again[key], value) for key, value in state.items())
    # a part without gets none unasked
    half = tmp_path / "half"
    shutil.copytree(run.out / "model", half)
    (file,) = (half / "vae").glob("*.safetensors")
    save_file({k: v for k, v in load_file(file).items() if not k.endswith(LORA_SUFFIXES)}, file)
    fit(build(DistillConfig, values | {"teacher": str(half)}), Run(tiles, tmp_path / "halves"))
    told = [load_state(tmp_path / "halves" / "model" / n) for n in ("restoration", "vae")]
    assert [any(key.endswith(LORA_SUFFIXES) for key in state) for state in told] == [True, False]
    # one scale can be trained, and nothing changes at another
    values |= {"shared": False, "scales": [2], "scale_weights": [1.0]}
    values |= {"loop": loop | {"weight_decay": 10.0}}
    fit(build(DistillConfig, values), Run(tiles, tmp_path / "two"))
    for name, state in made.items():
        again = load_state(tmp_path / "two" / "model" / name)
        numbers = {key for key in state if key.endswith(LORA_SUFFIXES)}
        assert any(not torch.equal(again[key][0], state[key][0]) for key in numbers), name
        for key in state:
            kept = (again[key][1], state[key][1]) if key in numbers else (again[key], state[key])
            assert torch.equal(*kept), (name, key)
    with pytest.raises(UsageError, match=r"distill\.shared: .* nothing learns"):
        fit(build(DistillConfig, values | {"teacher": str(teacher)}), Run(tiles, tmp_path / "none"))
    # and stage 1 alone starts from the weights that all scales share
    assert not any(
        key.endswith(LORA_SUFFIXES) for key in starting_weights(run.out / "model/restoration")
    )
    values |= {"scales": [2, 8], "scale_weights": [0.5, 0.5], "rank": 2}
    with pytest.raises(UsageError, match=r"distill\.scales: .* knows no scale 8"):
        fit(build(DistillConfig, values), Run(tiles, tmp_path / "other"))
    # those of a stage 1 for other scales than the teacher's are no use to it
    odd = tmp_path / "odd"
    shutil.copytree(run.out / "model" / "restoration", odd)
    (file,) = odd.glob("*.safetensors")
    state = load_file(file)
    save_file({k: v[:1] if k.endswith(LORA_SUFFIXES) else v for k, v in state.items()}, file)
    values |= {"scales": [2, 4], "restoration": str(odd)}
    with pytest.raises(ModelError, match=r"odd: what .* has of .* 2 scales"):
        fit(build(DistillConfig, values), Run(tiles, tmp_path / "other"))


def test_a_teacher_without_stage_2_is_refused(teacher: Path, tiles: Path, tmp_path: Path) -> None:
    values = SMALL | {"teacher": str(teacher), "sampling": {"fidelity": 1.0}}
    with pytest.raises(ModelError, match="no second stage to distil at fidelity 1"):
        fit(build(DistillConfig, values), Run(tiles, tmp_path))


def test_settings_that_exclude_each_other_are_refused(
    teacher: Path, tiles: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="samples 1: must be 2 or more with spread"):
        build(DistillConfig, SMALL | {"spread": 0.5})
    with pytest.raises(UsageError, match="rank -1: must be 0 or more"):
        build(DistillConfig, SMALL | {"rank": -1})


def test_plain_training_makes_a_model_that_loads(tiles: Path, tmp_path: Path) -> None:
    values = SMALL | {
        "model": {"width": 16, "blocks": 2},
        "loss": {"adversarial_from": 10**9},
        "loop": SMALL["loop"] | {"keep_every": 20},
    }
    fit_plain(build(PlainConfig, values), Run(tiles, tmp_path))
    rows = small.log(tmp_path)
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    model = from_pretrained(tmp_path / "model")
    assert type(model.restoration).__name__ == "PlainNet"
    assert model.second is None
    kept = [from_pretrained(f / "model") for f in sorted((tmp_path / "snapshots").iterdir())]
    assert len(kept) == 2  # iterations 20 and 40
    assert titles(tmp_path / "pictures" / "0000040.png") == 3  # LR, result, HR


def test_a_convolutional_stage_1_serves_students_and_the_baseline(
    teacher: Path, tiles: Path, tmp_path: Path
) -> None:
    run = Run(tiles, tmp_path / "stage1")
    values = small.config()["stage1"] | {
        "architecture": "PlainNet",
        "model": {"width": 8, "blocks": 1},
    }
    fit_stage1(build(Stage1Config, values), run)
    rows = small.log(run.out)
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    stage1 = run.out / "restoration"
    none = {"loop": SMALL["loop"] | {"iterations": 1, "learning_rate": 0.0, "weight_decay": 0.0}}
    values = SMALL | none | {"teacher": str(teacher), "sampling": SAMPLING}
    values |= {"restoration": str(stage1)}
    fit(build(DistillConfig, values), Run(tiles, tmp_path / "distill"))
    values = SMALL | none | {"model": {"width": 8, "blocks": 1}, "init": str(stage1)}
    fit_plain(build(PlainConfig, values), Run(tiles, tmp_path / "plain"))
    assemble_model(tmp_path / "alone", "alone", (4.0,), {}, stage1=run.out)
    expected = load_restoration(stage1).state_dict()
    for folder in ("distill/model", "plain/model", "alone"):
        made = from_pretrained(tmp_path / folder).restoration
        assert type(made) is PlainNet
        for key, value in made.state_dict().items():
            torch.testing.assert_close(value, expected[key], rtol=1e-3, atol=1e-4)  # half precision
    with pytest.raises(UsageError, match="'UNet' is not one of SwinIR, PlainNet"):
        fit_stage1(Stage1Config(architecture="UNet"), run)
    config = json.loads((stage1 / "config.json").read_text())
    (stage1 / "config.json").write_text(json.dumps(config | {"_class_name": "UNet"}))
    with pytest.raises(ModelError, match=r"config\.json: a 'UNet', not SwinIR, PlainNet"):
        load_restoration(stage1)


def test_features_of_the_plain_network_hold_stage_1_and_a_detail(
    teacher: Path, tiles: Path, tmp_path: Path
) -> None:
    shape = {"model": {"width": 8, "blocks": 1}}
    loop = {"loop": SMALL["loop"] | {"iterations": 20, "validate_every": 20}}
    config = {
        "stage1": small.config()["stage1"] | shape | {"architecture": "PlainNet", "loss": "l1"},
        "plain": SMALL | shape | loop | {"loss": {"adversarial_from": 5}},
        "detail": small.PAIRS | {"loop": SMALL["loop"]},
        "distill": SMALL
        | {"sampling": SAMPLING | {"steps": 1}, "samples": 2, "spread": 0.5}
        | loop,
    }
    start = tmp_path / "start"
    shutil.copytree(teacher, start)
    first: PlainNet = PlainNet(**shape["model"])
    first.save_pretrained(start / "restoration")
    card = json.loads((start / "model.json").read_text())
    card["parts"]["restoration"] = "PlainNet"
    (start / "model.json").write_text(json.dumps(card))
    run = tmp_path / "run"
    launch, train.run.launch = train.run.launch, small.launch
    try:
        left = train.run.advance(config, Run(tiles, run), start=start)
    finally:
        train.run.launch = launch
    assert left is None
    assert train.run.planned_stages(config, None)[:3] == ["stage1", "plain", "detail"]

    made, plain = (
        load_restoration(run / place / "restoration") for place in ("detail", "plain/model")
    )
    assert isinstance(made, PlainNet)
    assert isinstance(plain, PlainNet)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        features = made.features(x)
        torch.testing.assert_close(
            made.image_of(x, features) + made.detail_of(features), plain(x), rtol=0, atol=1e-5
        )
    assert float((made(x) - plain(x)).detach().abs().max()) > 1e-3
    untrained = join_networks(load_restoration(run / "stage1" / "restoration"), plain)
    pairs = PairConfig(8, 64, (4,), (1.0,), "area")
    lr, hr, _ = make_pair(pairs, load_tiles(tiles / "train"), 0)
    with torch.no_grad():
        losses = [F.l1_loss(agree(net(upsample(lr, 4)), lr), hr) for net in (untrained, made)]
    assert losses[1] < losses[0]

    # the student goes on with the layer of detail and leaves the rest of stage 1 alone, or not
    student = from_pretrained(run / "distill" / "model").restoration
    for key, value in made.state_dict().items():
        same = torch.allclose(student.state_dict()[key], value, rtol=1e-3, atol=1e-4)
        assert same == (not key.startswith("last_detail.")), key
    section = config["distill"] | {
        "teacher": str(start),
        "restoration": str(run / "detail/restoration"),
    }
    fit(build(DistillConfig, section | {"stage1": 1.0}), Run(tiles, run / "along"))
    along = from_pretrained(run / "along" / "model").restoration
    for key, value in made.state_dict().items():
        if key.endswith("weight"):
            assert not torch.allclose(along.state_dict()[key], value, rtol=1e-3, atol=1e-4), key
    # and such a model can be moved forward: its layer of detail is made anew
    assert set(starting_weights(run / "detail" / "restoration")) == set(plain.state_dict())
    other: PlainNet = PlainNet(width=4, blocks=1)
    with pytest.raises(UsageError, match="must be PlainNets of one size"):
        join_networks(other, plain)


def test_one_command_in_slices_moves_a_model_forward(
    teacher: Path,
    tiles: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(train.run, "launch", small.launch)
    config = small.config("stage1") | {"distill": SMALL | {"sampling": SAMPLING | {"steps": 1}}}
    file = small.write(tmp_path / "small.yaml", config)
    arguments = ["--config", file, "--data", tiles, "--out", tmp_path / "run", "--start", teacher]
    arguments += ["--set", "distill.loop.iterations=2", "--threads", 1]
    for minutes, said in (("0.001", "time over in stage1"), ("5", "done")):
        assert train.run.main([*map(str, arguments), "--minutes", minutes]) == 0
        assert said in capsys.readouterr().out
    made = from_pretrained(tmp_path / "run" / "distill" / "model")
    old = from_pretrained(teacher)
    weights = made.restoration.state_dict(), old.restoration.state_dict()
    assert any(not torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
