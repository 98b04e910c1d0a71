"""A model folder from others: the mean of their weights, or what a scale changes, taken from them.

    python -m train.merge --out mean A=0.5 B=0.3 C=0.2
    python -m train.merge --out told BASE --scale 4 --towards A=0.7 B=0.3 --rank 8

Models that were trained from the same weights have means which keep most of what each is good at
(model soups, Wortsman et al. 2022). What is good at one scale need not bear on the others: by the
second command BASE stays as it is at all scales but one, where its convolutions move towards
another mean by low-rank changes (`wsisr.models.lora`), the nearest that have that rank (Eckart and
Young 1936). `train.distill` with `shared: false` can go on from there.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file
from torch import Tensor

from wsisr.errors import UsageError, WsisrError
from wsisr.models.loading import ModelCard, read_card
from wsisr.models.lora import BIAS, DOWN, SUFFIXES, UP, fold, low_rank
from wsisr.models.parts import load_state

TOLD = ("restoration", "vae")
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
    """Write a model folder, in half precision.

    Args:
        out: the folder; it must not be there.
        models: model folders of the same networks -> their share, in any unit. The first gives all
            that is not weights. One alone keeps what other scales change.
        scale: one of the model's; None makes a mean and nothing more.
        towards: models, as above, whose mean is aimed at there; each as it is at that scale.
        rank: of the changes.

    Raises:
        UsageError: `out` exists, the models are not of the same networks, or differ where a scale
            can change nothing.
        ModelError: a model is broken.
    """
    if out.exists():
        raise UsageError(f"{out}: is there already; remove it or give another --out")
    if (scale is None) != (not towards):
        raise UsageError("--scale and --towards need each other")
    if rank < 1:
        raise UsageError(f"--rank {rank}: must be 1 or more")
    first = next(iter(models))
    card = read_card(first)
    row = None
    if scale is not None:
        if scale not in card.scales:
            raise UsageError(f"--scale {scale:g}: {first} knows {card.scales}")
        row = card.scales.index(scale)
    parts: dict[str, State] = {}
    for part in card.parts:
        state = mean(card, models, part, None)
        if row is not None:
            target = mean(card, towards or {}, part, row)
            if part in TOLD:
                held = load_state(first / part) if len(models) == 1 else {}
                state |= {key: value for key, value in held.items() if key.endswith(SUFFIXES)}
            state |= changes(state, target, len(card.scales), row, rank, part)
        parts[part] = state
    try:
        _write(out, first, parts)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise


def mean(card: ModelCard, models: Mapping[Path, float], part: str, row: int | None) -> State:
    """The weighted mean of a part's tensors, each as it is at the scale `row`, see `fold`.

    Raises:
        UsageError: a model has other parts or scales than `card`, or tensors of other shapes.
        ModelError: one is broken.
    """
    total = sum(models.values())
    if total <= 0 or min(models.values()) < 0:
        raise UsageError("the models' shares must be 0 or more, and not all 0")
    summed: State = {}
    for folder, share in models.items():
        other = read_card(folder)
        place = folder / part
        if (other.parts, other.scales) != (card.parts, card.scales):
            raise UsageError(f"{folder}: not of the same parts and scales as the first model")
        state = fold(load_state(place), len(card.scales), row, str(place))
        shapes = {key: value.shape for key, value in state.items()}
        if summed and shapes != {key: value.shape for key, value in summed.items()}:
            raise UsageError(f"{place}: not the network of the first model")
        for key, value in state.items():
            summed[key] = summed.get(key, torch.zeros(())) + value * (share / total)
    return summed


def changes(base: State, target: State, scales: int, row: int, rank: int, part: str) -> State:
    """The tensors of `wsisr.models.lora` that bring a part at one scale nearest to others.

    Args:
        base: the part's tensors; what it has of changes already stays at other scales.
        target: what they should be at the scale `row`.
        scales: how many the model has.
        row: index of the scale.
        rank: of the changes.
        part: its name.

    Raises:
        UsageError: `target` is another network, or differs where nothing can change.
    """
    shared = {key: value for key, value in base.items() if not key.endswith(SUFFIXES)}
    if shared.keys() != target.keys():
        raise UsageError(f"{part}: the models of --towards are of another network")
    made: State = {}
    for key, value in shared.items():
        name, _, kind = key.rpartition(".")
        weight = shared.get(f"{name}.weight")
        change = target[key] - value
        new: dict[str, Tensor] = {}
        if part in TOLD and weight is not None and weight.ndim == 4 and kind == "weight":
            new = dict(zip((DOWN, UP), low_rank(change, rank), strict=True))
        elif part in TOLD and weight is not None and weight.ndim == 4 and kind == "bias":
            new = {BIAS: change}
        elif not torch.allclose(target[key], value, rtol=1e-3, atol=1e-6):  # half precision
            raise UsageError(
                f"{part}: {key} differs, but a scale can only change convolutions of "
                f"{' and '.join(TOLD)}; train with `distill.train_diffusion: false`"
            )
        for suffix, factor in new.items():
            rows = base.get(name + suffix, torch.zeros(scales, *factor.shape)).clone()
            if rows.shape[1:] != factor.shape:
                raise UsageError(
                    f"--rank {rank}: {part} has other scales' changes of another rank "
                    f"({name}{suffix} is {tuple(rows.shape)}); give theirs"
                )
            rows[row] = factor
            made[name + suffix] = rows
    return made


def _write(out: Path, first: Path, parts: Mapping[str, State]) -> None:
    """The folder; its model.json, without which it is none, comes last."""
    out.mkdir(parents=True)
    for part, state in parts.items():
        (out / part).mkdir()
        shutil.copyfile(first / part / "config.json", out / part / "config.json")
        halves = {key: value.half().contiguous() for key, value in state.items()}
        save_file(halves, out / part / SAFETENSORS_WEIGHTS_NAME, {"format": "pt"})
    if (first / "prompt").is_dir():
        shutil.copytree(first / "prompt", out / "prompt")
    shutil.copyfile(first / "model.json", out / "model.json")


def shares(items: Sequence[str]) -> dict[Path, float]:
    """`FOLDER=SHARE`, or FOLDER for a share of 1. Raises UsageError for another share."""
    found: dict[Path, float] = {}
    for item in items:
        folder, equals, share = item.rpartition("=")
        try:
            found[Path(folder if equals else item)] = float(share) if equals else 1.0
        except ValueError as error:
            raise UsageError(f"{item}: give FOLDER=SHARE, the share a number") from error
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the folder; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="MODEL[=SHARE]", help="model folders")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--scale", type=float, help="change this scale alone")
    parser.add_argument("--towards", nargs="+", default=[], metavar="MODEL[=SHARE]")
    parser.add_argument("--rank", type=int, default=8, help="of the change")
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
    except OSError as error:
        print(f"error: {args.out} cannot be written ({error})", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
