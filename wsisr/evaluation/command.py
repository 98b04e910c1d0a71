"""What `wsisr eval` does: which of the three evaluations the arguments mean."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from wsisr.errors import UsageError
from wsisr.evaluation.evaluate import Options, evaluate_alone, evaluate_slides, evaluate_tiles
from wsisr.evaluation.report import Evaluation

RESERVED = ("bicubic", "lr", "hr")
"""Names that tables and pictures give themselves."""


def judge(
    sr: Path,
    hr: Path | None,
    lr: Path | None,
    *,
    options: Options,
    tiles: bool = False,
    scale: int | None = None,
    transform: Path | None = None,
    sr_mpp: float | None = None,
    hr_mpp: float | None = None,
    label: str = "sr",
    also: Sequence[str] = (),
) -> Evaluation:
    """Folders of tiles with `tiles`, slide against slide with `hr`, else the slide alone.

    `label` is what tables call SR; `also` names further results as LABEL=PATH.

    Raises:
        UsageError: options that do not fit together.
        SlideError: see the functions this calls.
    """
    others = labelled(label, also)
    if tiles:
        if hr is None:
            raise UsageError("--tiles: give the folder of real tiles as well: SR HR")
        return evaluate_tiles(sr, hr, lr, scale=scale, options=options, method=label, also=others)
    if scale is not None:
        raise UsageError("--scale: only with --tiles; slides know their own resolution")
    if hr is None:
        return evaluate_alone(sr, lr, options=options, sr_mpp=sr_mpp, method=label, also=others)
    return evaluate_slides(
        sr,
        hr,
        lr,
        options=options,
        transform=transform,
        sr_mpp=sr_mpp,
        hr_mpp=hr_mpp,
        method=label,
        also=others,
    )


def labelled(label: str, also: Sequence[str]) -> dict[str, Path]:
    """Return {label: path} of `--also LABEL=PATH`; `label` is SR's own.

    Raises `UsageError` for another form, and for labels that are taken or cannot name a file.
    """
    parted = [text.partition("=") for text in also]
    for text, (_, _, path) in zip(also, parted, strict=True):
        if not path:
            raise UsageError(f"--also {text}: give LABEL=PATH")
    taken = set(RESERVED)
    for option, name in (("--label", label), *(("--also", name) for name, _, _ in parted)):
        if not re.fullmatch(r"\w[\w.+-]*", name):
            raise UsageError(f"{option} {name}: a label has letters, digits and . _ + - only")
        if name.lower() in taken:
            raise UsageError(f"{option} {name}: this label is taken; choose another")
        taken.add(name.lower())
    return {name: Path(path) for name, _, path in parted}


def as_table(evaluation: Evaluation) -> str:
    """One line a metric, one column a method; what did not run stands below with its reason."""
    methods = list(evaluation.methods)
    names = list(dict.fromkeys(name for m in methods for name in evaluation.methods[m]))
    wide = max(16, *(len(method) + 2 for method in methods))
    lines = [f"{'':24}" + "".join(f"{method:>{wide}}" for method in methods)]
    for name in names:
        cells = (evaluation.methods[m].get(name, float("nan")) for m in methods)
        lines.append(f"{name:24}" + "".join(f"{value:{wide}.4g}" for value in cells))
    lines += [f"{name:24}not run: {reason}" for name, reason in evaluation.not_run.items()]
    return "\n".join(lines)
