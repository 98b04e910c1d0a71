"""Published checkpoints of the model's family, made into our folders.

DiffBIR (Lin et al. 2023) publishes the same two stages in the key layout of latent-diffusion:

    a full checkpoint      stage 1, ControlNet, UNet, autoencoder and text encoder in one file
    stage 1                a SwinIR alone
    a ControlNet           alone; UNet and autoencoder come from Stable Diffusion (`base`)

Every key of the input ends in a part of the output or on the list of those not needed, with the
reason, in `conversion.json`; a key without a place, and a weight without a key, is an error.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsisr.errors import ModelError
from wsisr.files import commit_folder, file_sha256, os_errors, remove
from wsisr.guard import refuse_foreign, refuse_inputs, refuse_links
from wsisr.models.files import (
    SECOND_STAGE,
    Checkpoint,
    ModelCard,
    count_blocks,
    fill,
    make_module,
    network_class,
    read_checkpoint,
    require,
    save_pretrained,
)
from wsisr.models.networks import UNSHUFFLE, relative_position_index, shifted_window_mask
from wsisr.models.published import ldm
from wsisr.models.published.base import DEFAULT_BASE, load_base
from wsisr.models.published.ldm import Network
from wsisr.models.published.prompt import from_open_clip
from wsisr.models.sampling import make_schedule

CLASS_NAMES = {
    "restoration": "SwinIR",
    "vae": "AutoencoderKL",
    "unet": "UNet2DConditionModel",
    "controlnet": "LatentControlNet",
}
FOLLOWS = "follows from the shapes; checked"
SAME_ENCODER = "the autoencoder's own encoder once more; checked"
REPORT = "conversion.json"
WRITTEN = {"restoration", "prompt", "model.json", REPORT, *SECOND_STAGE}
"""What a conversion writes into a folder."""
UNUSED_TEXT = "not needed for the blank prompt"
NO_WEIGHTS = "no weights"
SAMPLING = {"sampler": "spaced-ddpm", "steps": 50, "start_timestep": 999, "start_from": "condition"}
"""The paper's steps; from the noised condition, since pure noise at t = 999 shifts colours."""


@dataclass
class Conversion:
    """Records what became of a checkpoint's keys.

    Attributes:
        sources: file name -> SHA-256.
        used: key -> `part/new key`.
        unused: reason -> keys.
        remarks: what the user should know.
    """

    sources: dict[str, str] = field(default_factory=dict)
    used: dict[str, str] = field(default_factory=dict)
    unused: dict[str, list[str]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def drop(self, reason: str, keys: Sequence[str]) -> None:
        """Notes keys that no part needs."""
        if keys:
            self.unused.setdefault(reason, []).extend(keys)

    def lines(self) -> list[str]:
        """Tells people how many keys went where."""
        counts: dict[str, int] = {}
        for place in self.used.values():
            part = place.partition("/")[0]
            counts[part] = counts.get(part, 0) + 1
        lines = [f"{part}: {count} keys" for part, count in counts.items()]
        lines += [f"not used: {len(keys)} keys, {why}" for why, keys in self.unused.items()]
        return lines + self.remarks


@dataclass
class _Gathered:
    """The parts that were found so far."""

    modules: dict[str, nn.Module] = field(default_factory=dict)
    prompt: Tensor | None = None


def convert(
    checkpoints: Sequence[Path],
    out: Path,
    *,
    name: str | None = None,
    prediction: str = "epsilon",
    zero_snr: bool = False,
    base: str | None = None,
    half: bool = False,
    overwrite: bool = False,
) -> Conversion:
    """Writes the parts of one or more checkpoints as a model folder.

    Args:
        checkpoints: files of different parts, for instance a ControlNet and its stage 1.
        out: the folder to write; it appears when it is complete.
        name: of the model; the folder's by default.
        prediction: `epsilon`, or `v` as DiffBIR v2.1.
        zero_snr: the noise schedule ends without signal (v2.1); taken from the checkpoint where
            that holds the schedule.
        base: where UNet and autoencoder come from if they are in no checkpoint. Given one, the
            blank prompt is made from its text encoder now rather than whenever the model is loaded.
        half: store weights in half precision.
        overwrite: replace `out`.

    Returns:
        What became of each key; the folder's conversion.json holds the same.

    Raises:
        ModelError: a file that is no checkpoint of the family, incomplete, not finite, or with
            keys that have no place; a part that two files bring.
        OutputError: `out` cannot be written.
        ExistsError: `out` is there.
        UsageError: `out` is no folder of such a conversion, or holds a checkpoint.
    """
    partial, replaced = (out.with_name(f"{out.name}.{end}") for end in ("partial", "replaced"))
    refuse_inputs([out, partial, replaced], [*checkpoints, *([Path(base)] if base else [])])
    refuse_links([out, partial, replaced])
    refuse_foreign(out, _is_conversion, overwrite=overwrite)
    for left in (partial, replaced):
        refuse_foreign(left, _is_unfinished, overwrite=True)
    report, gathered = Conversion(), _Gathered()
    for file in checkpoints:
        checkpoint = read_checkpoint(file)
        report.sources[file.name] = file_sha256(file)
        zero_snr = _schedule(checkpoint, prediction, zero_snr, report)
        _take(checkpoint, gathered, report)
    card = _card(gathered, name or out.name, prediction, zero_snr, base)
    _complete(gathered, card, base, report)
    if half:
        for module in gathered.modules.values():
            module.half()
    remove(partial)
    try:
        with os_errors(out):
            save_pretrained(partial, card, gathered.modules, gathered.prompt)
            _write_report(partial, report)
        commit_folder(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return report


def _is_conversion(folder: Path) -> bool:
    """Tells whether a folder is a conversion's, and nobody has put more into it."""
    has_report = (folder / REPORT).is_file() and (folder / "model.json").is_file()
    return has_report and _is_unfinished(folder)


def _is_unfinished(folder: Path) -> bool:
    """Tells whether a folder holds nothing but what a conversion writes."""
    return folder.is_dir() and {entry.name for entry in folder.iterdir()} <= WRITTEN


def convert_swinir(tensors: Mapping[str, Tensor]) -> Network:
    """Converts DiffBIR's stage 1 to `SwinIR`; names stay, sizes are read off the shapes.

    Args:
        tensors: of the network, unprefixed.

    Raises:
        ModelError: it is a SwinIR of another kind, keys are missing, or a buffer is not what its
            shape implies.
    """
    if "conv_first.weight" in tensors:
        raise ModelError(
            "a SwinIR without pixel-unshuffle is no stage 1; run it as a network of its own "
            "(its file as <model>, with wsisr[spandrel])"
        )
    first = require(tensors, "conv_first.1.weight")
    groups = range(count_blocks(tensors, "layers."))
    block = "layers.0.residual_group.blocks.0"
    side = math.isqrt(require(tensors, f"{block}.attn.relative_position_bias_table").shape[0])
    window = (side + 1) // 2
    features = ("conv_before_upsample.0", "conv_up1", "conv_up2", "conv_up3")
    if first.shape[1] != 3 * UNSHUFFLE**2:
        raise ModelError(f"a SwinIR that folds {first.shape[1] // 3} pixels, not {UNSHUFFLE**2}")
    config = {
        "embed_dim": first.shape[0],
        "depths": tuple(
            count_blocks(tensors, f"layers.{i}.residual_group.blocks.") for i in groups
        ),
        "num_heads": tuple(
            require(
                tensors, f"layers.{i}.residual_group.blocks.0.attn.relative_position_bias_table"
            ).shape[1]
            for i in groups
        ),
        "window_size": window,
        "mlp_ratio": require(tensors, f"{block}.mlp.fc1.weight").shape[0] / first.shape[0],
        "num_feat": tuple(require(tensors, f"{name}.weight").shape[0] for name in features),
    }
    kept = {key: value for key, value in tensors.items() if not _follows(key, value, window)}
    return Network(config, {key: key for key in kept}, kept)


def _follows(key: str, value: Tensor, window: int) -> bool:
    """Tells whether a key is one of the two buffers, which must be what the sizes imply."""
    if key.endswith(".attn.relative_position_index"):
        expected = relative_position_index(window)
    elif key.endswith(".attn_mask"):
        # one mask for each window of the square image the network was set up for
        side = math.isqrt(value.shape[0]) * window
        expected = shifted_window_mask(side, side, window, window // 2)
    else:
        return False
    if value.shape != expected.shape or not torch.equal(value.to(expected.dtype), expected):
        raise ModelError(f"{key} is not that of windows of {window}; another kind of SwinIR")
    return True


CONVERTERS: dict[str, Callable[[Mapping[str, Tensor]], Network]] = {
    **ldm.CONVERTERS,
    "restoration": convert_swinir,
}


def _take(checkpoint: Checkpoint, gathered: _Gathered, report: Conversion) -> None:
    """Adds a checkpoint's parts to those found."""
    file, found = checkpoint.file, ldm.split(checkpoint.tensors)
    if not found.parts:
        raise ModelError(
            f"{file}: none of its {len(checkpoint.tensors)} keys is of this family (the first is "
            f"{next(iter(checkpoint.tensors))}); a single super-resolution network can be run "
            "as it is, with wsisr[spandrel]: give its file as <model>"
        )
    if found.unknown:
        raise ModelError(
            f"{file}: {len(found.unknown)} keys have no place in a model, the first is "
            f"{found.unknown[0]}"
        )
    report.drop(NO_WEIGHTS, checkpoint.beside)
    for reason, keys in found.unused.items():
        report.drop(reason, keys)
    parts = dict(found.parts)
    encoder = parts.pop("condition_encoder", None)
    if encoder is not None:
        parts["vae"] = _one_encoder(file, parts.get("vae"), encoder, report)
    for part, tensors in parts.items():
        prefix = found.prefixes.get(part, "")
        try:
            if part == "prompt":
                _take_prompt(tensors, prefix, gathered, report)
            else:
                _take_part(part, tensors, prefix, gathered, report)
        except ModelError as error:
            raise ModelError(f"{file}: {part}: {error}") from error


def _take_part(
    part: str,
    tensors: Mapping[str, Tensor],
    prefix: str,
    gathered: _Gathered,
    report: Conversion,
) -> None:
    if part in gathered.modules:
        raise ModelError("another of the checkpoints brings this part too")
    network = CONVERTERS[part](tensors)
    module = make_module(network_class(part, CLASS_NAMES[part]), network.config)
    original = {new: old for old, new in network.names.items()}
    fill(module, network.tensors, f"of {len(tensors)} keys")
    assert set(module.state_dict()) == set(original)
    gathered.modules[part] = module
    report.used |= {f"{prefix}{old}": f"{part}/{new}" for old, new in network.names.items()}
    report.drop(FOLLOWS, [f"{prefix}{key}" for key in tensors if key not in network.names])


def _take_prompt(
    tensors: Mapping[str, Tensor], prefix: str, gathered: _Gathered, report: Conversion
) -> None:
    blank = from_open_clip(tensors)
    gathered.prompt = blank.embedding
    report.used |= {f"{prefix}{key}": "prompt/prompt" for key in blank.used}
    report.drop(UNUSED_TEXT, [f"{prefix}{key}" for key in blank.unused])


def _one_encoder(
    file: Path,
    vae: Mapping[str, Tensor] | None,
    encoder: Mapping[str, Tensor],
    report: Conversion,
) -> Mapping[str, Tensor]:
    """Checks that the condition's encoder, which DiffBIR stores too, is the autoencoder's."""
    if vae is None or any(key not in vae for key in encoder):
        raise ModelError(f"{file}: cond_encoder does not go with first_stage_model")
    differing = [key for key in encoder if not torch.equal(encoder[key], vae[key])]
    if differing:
        raise ModelError(
            f"{file}: the condition's encoder differs from the autoencoder's in {len(differing)} "
            f"weights, the first is {differing[0]}; a model has one encoder"
        )
    report.drop(SAME_ENCODER, [f"cond_encoder.{key}" for key in encoder])
    return vae


def _schedule(checkpoint: Checkpoint, prediction: str, zero_snr: bool, report: Conversion) -> bool:
    """Tells whether the schedule ends without signal, by the checkpoint's own numbers if any."""
    stored = checkpoint.tensors.get("alphas_cumprod")
    if stored is None:
        return zero_snr
    for zero in (zero_snr, not zero_snr):
        expected = make_schedule(prediction=prediction, zero_terminal_snr=zero).alphas_cumprod
        if stored.shape == expected.shape and torch.allclose(
            stored.double(), expected, rtol=1e-3, atol=1e-5
        ):
            if zero != zero_snr:
                report.remarks.append(f"zero terminal SNR: {zero}, by the checkpoint's schedule")
            return zero
    raise ModelError(
        f"{checkpoint.file}: its noise schedule (alphas_cumprod) is not Stable Diffusion's"
    )


def _card(
    gathered: _Gathered, name: str, prediction: str, zero_snr: bool, base: str | None
) -> ModelCard:
    modules = gathered.modules
    has_second = any(part in modules for part in ("controlnet", "unet", "vae"))
    complete = all(part in modules for part in ("unet", "vae")) and gathered.prompt is not None
    return ModelCard(
        name,
        {part: CLASS_NAMES[part] for part in CLASS_NAMES if part in modules},
        schedule={"prediction": prediction, "zero_terminal_snr": zero_snr} if has_second else {},
        sampling=SAMPLING if has_second else {},
        base=(base or DEFAULT_BASE) if has_second and not complete else None,
    )


def _complete(gathered: _Gathered, card: ModelCard, base: str | None, report: Conversion) -> None:
    """Takes the blank prompt from the base, and says what else will be needed."""
    if "controlnet" not in gathered.modules:
        if "restoration" in gathered.modules:
            report.remarks.append("stage 1 alone: the folder restores, it does not generate")
        return
    if gathered.prompt is None and base is not None:
        gathered.prompt = load_base(base, ["prompt"]).prompt
    lacking = [part for part in ("unet", "vae") if part not in gathered.modules]
    lacking += ["the blank prompt"] if gathered.prompt is None else []
    if lacking:
        report.remarks.append(
            f"{', '.join(lacking)}: in no checkpoint, taken from {card.base} when the model is "
            "loaded; another place can be given as <base>"
        )
    if "restoration" not in gathered.modules:
        report.remarks.append(
            "stage 1 is in no checkpoint: the folder cannot be run until both are converted "
            "together (wsisr models convert CKPT CKPT OUT)"
        )


def _write_report(folder: Path, report: Conversion) -> None:
    content: dict[str, Any] = {
        "sources": report.sources,
        "used": report.used,
        "unused": report.unused,
        "remarks": report.remarks,
    }
    (folder / REPORT).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
