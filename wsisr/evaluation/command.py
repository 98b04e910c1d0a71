"""What `wsisr eval` does: which of the three evaluations the arguments mean."""

from __future__ import annotations

from pathlib import Path

from wsisr.errors import UsageError
from wsisr.evaluation.evaluate import Options, evaluate_alone, evaluate_slides, evaluate_tiles
from wsisr.evaluation.results import Evaluation


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
) -> Evaluation:
    """Folders of tiles with `tiles`, slide against slide with `hr`, else the slide alone.

    Raises:
        UsageError: options that do not fit together.
        SlideError: see the functions this calls.
    """
    if tiles:
        if hr is None:
            raise UsageError("--tiles: give the folder of real tiles as well: SR HR")
        return evaluate_tiles(sr, hr, lr, scale=scale, options=options)
    if scale is not None:
        raise UsageError("--scale: only with --tiles; slides know their own resolution")
    if hr is None:
        return evaluate_alone(sr, lr, options=options, sr_mpp=sr_mpp)
    return evaluate_slides(
        sr, hr, lr, options=options, transform=transform, sr_mpp=sr_mpp, hr_mpp=hr_mpp
    )


def as_table(evaluation: Evaluation) -> str:
    """One line a metric, one column a method; what did not run stands below with its reason."""
    methods = list(evaluation.methods)
    names = list(dict.fromkeys(name for m in methods for name in evaluation.methods[m]))
    lines = [f"{'':24}" + "".join(f"{method:>16}" for method in methods)]
    for name in names:
        cells = (evaluation.methods[m].get(name, float("nan")) for m in methods)
        lines.append(f"{name:24}" + "".join(f"{value:16.4g}" for value in cells))
    lines += [f"{name:24}not run: {reason}" for name, reason in evaluation.not_run.items()]
    return "\n".join(lines)
