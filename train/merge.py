"""Makes a model folder from others: the mean of their weights, or changes of one scale.

    python -m train merge --out mean A=0.5 B=0.3 C=0.2
    python -m train merge --out mine BASE --scale 4 --towards A=0.7 B=0.3 --rank 8

Models that were trained from the same weights have means which keep most of what each is good at
(model soups, Wortsman et al. 2022). What is good at one scale need not bear on the others: by the
second command BASE stays as it is at all scales but one, where its convolutions move towards
another mean by low-rank changes (`wsisr.models.networks.lora`), the nearest that have that rank
(Eckart and Young 1936). The stage `distill` with `shared: false` can go on from there. The mean of
models that have such changes comes as near to their mean at each scale as the rank allows.
"""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from train.loop import make_parser
from wsisr.errors import ModelError, UsageError, WsisrError
from wsisr.models.files import (
    SECOND_STAGE,
    ModelCard,
    check_fit,
    check_prompt,
    empty_module,
    fill,
    load_state,
    part_class,
    read_card,
)
from wsisr.models.networks import (
    LORA_BIAS,
    LORA_DOWN,
    LORA_SUFFIXES,
    LORA_UP,
    fold_scale,
    low_rank_factors,
)

ADAPTABLE_PARTS = ("restoration", "vae")
"""Parts that a scale can change."""

State = dict[str, Tensor]


def merge(
    out: Path,
    models: Mapping[Path, float],
    *,
    scale: float | None = None,
    towards: Mapping[Path, float] | None = None,
    rank: int = 8,
) -> None:
    """Writes a model folder, in half precision.

    Args:
        out: the folder, which must not be there.
        models: model folders of the same networks -> their share, in any unit. The first gives all
            that is not weights. A single one keeps the changes that it has.
        scale: one of the model's scales; None makes a mean and nothing more.
        towards: models, as above, whose mean is aimed at there; each as it is at that scale.
        rank: rank of the changes.

    Raises:
        UsageError: `out` exists, the models are not of the same networks, or differ where a scale
            can change nothing.
        ModelError: a model is broken, or its weights are too large for half precision.
        OSError, SafetensorError: `out` cannot be written; nothing of it is left.
    """
    if out.exists():
        raise UsageError(f"{out}: is there already; remove it or give another --out")
    if (scale is None) != (not towards):
        raise UsageError("--scale and --towards need each other")
    if rank < 1:
        raise UsageError(f"--rank {rank}: must be 1 or more")
    recipe = _Recipe(models, towards or {}, rank, _row_of(next(iter(models)), scale))
    parts: dict[str, State] = {}
    networks: dict[str, nn.Module] = {}
    for part in recipe.card.parts:
        place = str(recipe.first / part)
        network = empty_module(recipe.first / part, part_class(recipe.first, recipe.card, part))
        state = recipe.state(part)
        # all that can be wrong is said before anything is written, and by the name of a source
        fill(network, fold_scale(state, len(recipe.card.scales), None, place), place)
        networks[part] = network.to("meta")  # single precision is not kept beside half
        sources = [folder / part for folder in {**models, **recipe.towards}]
        parts[part] = to_half(state, sources)
    check_stage2(recipe.first, networks)
    out.mkdir(parents=True)
    try:
        _write(out, recipe.first, parts)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise


def _row_of(folder: Path, scale: float | None) -> int | None:
    """Gives the index of a scale among those of a model.

    Raises:
        UsageError: the model does not know it.
    """
    if scale is None:
        return None
    scales = read_card(folder).scales
    if scale not in scales:
        raise UsageError(f"--scale {scale:g}: {folder} knows {scales}")
    return scales.index(scale)


@dataclass(frozen=True)
class _Recipe:
    """What a model is made of.

    Attributes:
        models: model folders -> their share.
        towards: model folders -> their share in the mean that one scale moves towards.
        rank: rank of the changes.
        row: index of that scale; None makes a mean and nothing more.
    """

    models: Mapping[Path, float]
    towards: Mapping[Path, float]
    rank: int
    row: int | None

    @property
    def first(self) -> Path:
        """The model that gives all that is not weights."""
        return next(iter(self.models))

    @cached_property
    def card(self) -> ModelCard:
        """The card of the first model."""
        return read_card(self.first)

    def state(self, part: str) -> State:
        """Makes the tensors of a part."""
        state = mean(self.card, self.models, part, None)
        if len(self.models) == 1:
            state |= scale_changes(self.first / part)
        else:
            places = [folder / part for folder in self.models]
            for row in sorted({row for place in places for row in changed_rows(place)}):
                state |= self._changes(state, self.models, part, row)
        if self.row is not None:
            state |= self._changes(state, self.towards, part, self.row)
        return state

    def _changes(self, state: State, models: Mapping[Path, float], part: str, row: int) -> State:
        """Makes the changes that bring a part at one scale nearest to a mean."""
        target = mean(self.card, models, part, row)
        return low_rank_changes(state, target, len(self.card.scales), row, self.rank, part)


def mean(card: ModelCard, models: Mapping[Path, float], part: str, row: int | None) -> State:
    """Gives the weighted mean of a part's tensors.

    Args:
        card: of the first model.
        models: model folders -> their share.
        part: its name.
        row: index of the scale at which each is taken, see `fold`; None is without changes.

    Raises:
        UsageError: a model has other parts or scales than `card`, or tensors of other shapes.
        ModelError: a model is broken.
    """
    total = sum(models.values())
    if not (0 < total < math.inf and min(models.values()) >= 0):
        raise UsageError("the models' shares must be finite, 0 or more, and not all 0")
    summed: State = {}
    for folder, share in models.items():
        other = read_card(folder)
        place = folder / part
        if (other.parts, other.scales) != (card.parts, card.scales):
            raise UsageError(f"{folder}: not of the same parts and scales as the first model")
        state = fold_scale(load_state(place), len(card.scales), row, str(place))
        shapes = {key: value.shape for key, value in state.items()}
        if summed and shapes != {key: value.shape for key, value in summed.items()}:
            raise UsageError(f"{place}: not the network of the first model")
        for key, value in state.items():
            summed[key] = summed.get(key, torch.zeros(())) + value * (share / total)
    return summed


def scale_changes(place: Path) -> State:
    """Reads the changes of scales that a part's folder has."""
    return {key: value for key, value in load_state(place).items() if key.endswith(LORA_SUFFIXES)}


def changed_rows(place: Path) -> set[int]:
    """Gives the scales, by their index, that change anything in a part."""
    effective = [
        value for key, value in scale_changes(place).items() if key.endswith((LORA_UP, LORA_BIAS))
    ]
    return {row for value in effective for row in range(len(value)) if value[row].any()}


def low_rank_changes(
    base: State, target: State, scales: int, row: int, rank: int, part: str
) -> State:
    """Makes the tensors of `wsisr.models.networks.lora` that bring a scale nearest to a target.

    Args:
        base: the part's tensors; what it has of changes already stays at other scales.
        target: what they should be at the scale `row`.
        scales: number of the model's scales.
        row: index of the scale.
        rank: rank of the changes.
        part: its name.

    Raises:
        UsageError: `target` is another network, or differs where nothing can change.
    """
    shared = {key: value for key, value in base.items() if not key.endswith(LORA_SUFFIXES)}
    if {k: v.shape for k, v in shared.items()} != {k: v.shape for k, v in target.items()}:
        raise UsageError(f"{part}: the models of --towards are of another network")
    made: State = {}
    for key, value in shared.items():
        name, _, kind = key.rpartition(".")
        weight = shared.get(f"{name}.weight")
        change = target[key] - value
        new: dict[str, Tensor] = {}
        if part in ADAPTABLE_PARTS and weight is not None and weight.ndim == 4 and kind == "weight":
            new = dict(zip((LORA_DOWN, LORA_UP), low_rank_factors(change, rank), strict=True))
        elif part in ADAPTABLE_PARTS and weight is not None and weight.ndim == 4 and kind == "bias":
            new = {LORA_BIAS: change}
        elif not torch.allclose(target[key], value, rtol=1e-3, atol=1e-6):  # half precision
            raise UsageError(
                f"{part}: {key} differs, but a scale can only change convolutions of "
                f"{' and '.join(ADAPTABLE_PARTS)}; aim at models that were trained with "
                "`distill.shared: false`, or at least `distill.train_diffusion: false`"
            )
        for suffix, factor in new.items():
            rows = base.get(name + suffix, torch.zeros(scales, *factor.shape))
            made[name + suffix] = _put(rows, row, factor)
    return made


def to_half(state: State, places: Sequence[Path]) -> State:
    """Gives a part's tensors in half precision.

    Args:
        state: the tensors.
        places: where they come from, for messages.

    Raises:
        ModelError: a weight is too large.
    """
    made = {key: value.half().contiguous() for key, value in state.items()}
    for key, value in made.items():
        if not torch.isfinite(value).all():
            raise ModelError(
                f"{', '.join(map(str, places))}: {key} has weights over 65504, too large for half "
                "precision; leave the model out"
            )
    return made


def check_stage2(folder: Path, networks: Mapping[str, nn.Module]) -> None:
    """Checks that the parts and the prompt of a model's stage 2 fit together.

    What belongs to its base is left out.

    Raises:
        ModelError: they do not.
    """
    prompt = None
    if (folder / "prompt").is_dir():
        prompt = load_state(folder / "prompt").get("prompt")
    own: Any = networks
    if all(part in networks for part in SECOND_STAGE):
        check_fit(folder, own["vae"], own["unet"], own["controlnet"], prompt)
    elif "controlnet" in networks and prompt is not None:
        check_prompt(folder, prompt, own["controlnet"].config.cross_attention_dim)


def _put(rows: Tensor, row: int, factor: Tensor) -> Tensor:
    """Copies (scales, ...) with (...) in the place of a row; zeros make up for less rank."""
    sizes = [max(pair) for pair in zip(rows.shape[1:], factor.shape, strict=True)]
    made = torch.zeros(len(rows), *sizes)
    made[tuple(slice(n) for n in rows.shape)] = rows
    made[row] = 0
    made[row][tuple(slice(n) for n in factor.shape)] = factor
    return made


def _write(out: Path, first: Path, parts: Mapping[str, State]) -> None:
    """Writes a model folder; its model.json, without which it is no model, comes last."""
    for part, state in parts.items():
        (out / part).mkdir()
        shutil.copyfile(first / part / "config.json", out / part / "config.json")
        save_file(state, out / part / SAFETENSORS_WEIGHTS_NAME, {"format": "pt"})
    if (first / "prompt").is_dir():
        shutil.copytree(first / "prompt", out / "prompt")
    shutil.copyfile(first / "model.json", out / "model.json")


def shares(items: Sequence[str]) -> dict[Path, float]:
    """Reads `FOLDER=SHARE`, or FOLDER for a share of 1.

    Raises:
        UsageError: a share is no number.
    """
    found: dict[Path, float] = {}
    for item in items:
        folder, equals, share = item.rpartition("=")
        try:
            place = Path(folder if equals else item)
            found[place] = found.get(place, 0.0) + (float(share) if equals else 1.0)
        except ValueError as error:
            raise UsageError(f"{item}: give FOLDER=SHARE, the share a number") from error
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the folder; returns the exit code."""
    parser = make_parser("merge", __doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL[=SHARE]", help="model folders")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--scale", type=float, help="change this scale alone")
    parser.add_argument(
        "--towards",
        nargs="+",
        default=[],
        metavar="MODEL[=SHARE]",
        help="models whose mean that scale moves towards",
    )
    parser.add_argument("--rank", type=int, default=8, help="rank of the changes")
    args = parser.parse_args(arguments)
    try:
        merge(
            args.out,
            shares(args.models),
            scale=args.scale,
            towards=shares(args.towards),
            rank=args.rank,
        )
    except WsisrError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except (OSError, SafetensorError) as error:
        print(f"error: {args.out} cannot be written ({error})", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0
