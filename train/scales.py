"""Give a model parts of their own for some scales: those that were trained for these alone.

    python -m train.distill --config train/configs/tiny-4x.yaml --data tiles --out runs/4x
    python -m train.scales wsisr/models/weights/tiny --at 4=runs/4x/model --out mine

Only parts that differ from the model's are written, so those that were not trained along
(`train_diffusion: false`) are shared. Scales with the same model share a sub-folder.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from wsisr.errors import UsageError, WsisrError
from wsisr.models import save_pretrained
from wsisr.models.loading import load_part, read_card


def join(model: Path, at: Mapping[float, Path], out: Path) -> tuple[str, ...]:
    """Write a copy of a model that takes its parts from others at some scales.

    Args:
        model: folder of the model that serves the other scales; what it has at some is left out.
        at: one of its scales -> folder of the model whose parts serve there.
        out: the folder to write; its model.json comes last.

    Returns:
        The parts that were added, as SUB-FOLDER/PART.

    Raises:
        UsageError: `out` exists, a scale is not one of the model's, or a model differs from it in
            more than the weights and sizes of its parts.
        ModelError: a folder is no model, or a part is broken.
    """
    if out.exists():
        raise UsageError(f"--out {out}: exists already; give another folder, or remove it")
    card = read_card(model)
    if unknown := sorted(set(at) - set(card.scales)):
        known = ", ".join(f"{scale:g}" for scale in card.scales)
        raise UsageError(f"--at {unknown[0]:g}: not one of the scales of {model}: {known}")
    places, added = {}, {}
    for scale, other in sorted(at.items()):
        own = read_card(other)
        if (own.parts, own.schedule, own.sampling) != (card.parts, card.schedule, card.sampling):
            raise UsageError(
                f"{other}: its model.json differs from that of {model} in more than the name"
            )
        scales = sorted(each for each in at if at[each] == other)
        places[scale] = "at-" + "-".join(f"{each:g}" for each in scales)
        for part in card.parts:
            if differ(*(load_part(folder, part, card) for folder in (model, other))):
                added[f"{places[scale]}/{part}"] = other / part
    aside = {"model.json", *card.at.values()}
    shutil.copytree(model, out, ignore=lambda folder, _: aside if Path(folder) == model else ())
    for place, source in added.items():
        shutil.copytree(source, out / place)
    save_pretrained(out, replace(card, at=places), {})
    return tuple(added)


def differ(a: nn.Module, b: nn.Module) -> bool:
    """Whether two networks of a class hold other weights, or were made with other arguments."""
    ours, theirs = a.state_dict(), b.state_dict()
    if ours.keys() != theirs.keys() or any(not torch.equal(ours[k], theirs[k]) for k in ours):
        return True
    # what diffusers notes beside the arguments begins so
    made = [{k: v for k, v in cast(Any, m).config.items() if k[0] != "_"} for m in (a, b)]
    return bool(made[0] != made[1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the folder; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="model folder that serves the other scales")
    parser.add_argument(
        "--at", action="append", required=True, metavar="SCALE=FOLDER", help="may stand repeatedly"
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    try:
        added = join(args.model, dict(map(at_scale, args.at)), args.out)
    except WsisrError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:  # a full disk; without its model.json the folder is no model
        print(f"error: {args.out} cannot be written ({error}); remove it", file=sys.stderr)
        return 1
    print(f"{args.out}: {', '.join(added) or 'no part differs'}")
    return 0


def at_scale(text: str) -> tuple[float, Path]:
    """What SCALE=FOLDER names.

    Raises:
        UsageError: it is something else.
    """
    scale, _, folder = text.partition("=")
    if folder:
        with suppress(ValueError):
            return float(scale), Path(folder)
    raise UsageError(f"--at {text}: give SCALE=FOLDER, as 4=runs/4x/model")


if __name__ == "__main__":
    sys.exit(main())
