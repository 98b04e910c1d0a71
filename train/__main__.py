"""Dispatches `python -m train COMMAND …`; without a command it lists them."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "run": ("train.run", "runs all stages in their order, in slices of time"),
    "stage1": ("train.stages.stage1", "trains the restoration module"),
    "plain": ("train.stages.plain", "trains the plain baseline without diffusion"),
    "detail": ("train.stages.detail", "trains stage 1 and the layer of detail behind it"),
    "autoencoder": ("train.stages.autoencoder", "trains the small autoencoder of histology"),
    "latents": ("train.stages.latents", "encodes the pairs of latents that stage 2 learns from"),
    "stage2": ("train.stages.stage2", "trains the controllable diffusion module"),
    "export": ("train.stages.export", "puts trained parts together into a model folder"),
    "distill": ("train.stages.distill", "trains a model for few steps, end to end"),
    "merge": ("train.merge", "makes a model from the weights of others"),
    "ablations": ("train.ablations", "runs the ablations of the paper"),
    "patches": ("train.data.patches", "cuts training patches out of slides"),
    "pack": ("train.data.pack", "packs tiles below a size, to move them to another machine"),
    "iqa-dataset": ("train.iqa.dataset", "makes the blur sets that CLIP-IQA's prompts learn from"),
    "clip-iqa": ("train.iqa.clip_iqa", "learns CLIP-IQA's prompts on a blur set"),
}
"""Name of a command -> its module, and what it does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command, whose module alone is imported.

    Args:
        arguments: name of the command and its arguments; by default those of this process.

    Returns:
        The exit code.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    if not given or given[0] in ("-h", "--help"):
        print("usage: python -m train COMMAND …; COMMAND --help tells more\n")
        for command, (_, summary) in COMMANDS.items():
            print(f"  {command:<12} {summary}")
        return 0
    name, *rest = given
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"is {close[0]} meant?" if close else "`python -m train` lists the commands"
        print(f"error: {name} is no command; {hint}", file=sys.stderr)
        return 2
    return int(importlib.import_module(COMMANDS[name][0]).main(rest))


if __name__ == "__main__":
    sys.exit(main())
