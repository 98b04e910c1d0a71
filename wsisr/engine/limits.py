"""What a run does only when it is asked for by name: with `force`.

A thumbnail taken for a slide, a resolution in the wrong unit or an exponent too many starts a run
of days. Such a request is refused with its numbers, before anything is computed.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from wsisr.errors import OptionError, SlideError, UsageError
from wsisr.models import trained_scales
from wsisr.plan import check_factor, target_size
from wsisr.pyramid import read_provenance
from wsisr.resolution import LARGEST_MAGNIFICATION, nominal_magnification
from wsisr.slides import View

if TYPE_CHECKING:
    from wsisr.engine.job import Job

LARGEST_SCALE = 8.0
"""The largest factor that a model of wsisr is trained for."""
SMALLEST_MPP, LARGEST_MPP = 0.05, 20.0
"""um/px of what microscopes make: beyond 100x, and a thumbnail."""
CONTRADICTION = 2.5
"""Scanners call a 20x objective with a doubling camera adapter 20x at 0.25 um/px; none is further
off than that."""
NEAR = math.sqrt(2) + 1e-6
"""A scale is served by weights that were trained for another one no further off than this."""


def check_input(job: Job, view: View) -> None:
    """Checks that the resolution that is upscaled can be that of a microscope.

    Raises:
        SlideError: it cannot, or contradicts the magnification, and the job does not say `force`.
    """
    mpp, magnification = view.mpp, view.magnification
    if mpp is None or job.force:
        return
    remedy = "give the right <input_mpp> X (um/px), or <force>"
    if not SMALLEST_MPP <= mpp <= LARGEST_MPP:
        raise SlideError(
            f"{job.source}: {mpp:.4g} um/px is not between {SMALLEST_MPP:g} and {LARGEST_MPP:g}, "
            f"so it is no resolution of a scan, but a thumbnail's or a mistake; {remedy}"
        )
    if magnification is None:
        return
    ratio = 10 / mpp / magnification
    if max(ratio, 1 / ratio) > CONTRADICTION:
        raise SlideError(
            f"{job.source}: {mpp:.4g} um/px, which is {10 / mpp:.3g}x, contradicts the "
            f"magnification of {magnification:.3g}x; {remedy}"
        )


def check_output(job: Job, view: View, mpp: float, scale: float) -> None:
    """Checks that a scale leads to what a model can make and a microscope could have seen.

    Args:
        job: what is asked for.
        view: the resolution that is upscaled.
        mpp: its um/px.
        scale: output px for each of its px, finite and above 1.

    Raises:
        OptionError: it does not, and the job does not say `force`.
        ModelError: no such model.
    """
    if job.force:
        return
    width, height = (target_size(side, scale) for side in (view.width, view.height))
    makes = f"makes {width}x{height} px ({_pixels(width * height)}) of {view.width}x{view.height}"
    check_scale(scale, job.model, force=False, makes=f"{makes} ({mpp:.4g} um/px); ")
    magnification = round(nominal_magnification(mpp / scale), 2)
    if magnification > LARGEST_MAGNIFICATION:
        raise OptionError(
            "scale",
            scale,
            f"leads to {magnification:g}x ({mpp / scale:.3g} um/px), past what a light microscope "
            f"resolves; at most {LARGEST_MAGNIFICATION:g}x without <force>",
        )


def check_scale(scale: float, model: object, *, force: bool, makes: str = "") -> None:
    """Checks that a model was trained for a scale.

    Args:
        scale: output px for each input px.
        model: name, folder or weight file; one that is loaded already does not say.
        force: whether any scale will do.
        makes: says what comes of the scale, for the message.

    Raises:
        OptionError: it was not.
        ModelError: no such model.
    """
    check_factor(scale)
    if force:
        return
    if scale > LARGEST_SCALE:
        rule = f"{makes}at most {LARGEST_SCALE:g} without <force>"
        raise OptionError("scale", scale, rule)
    trained = trained_scales(str(model)) if isinstance(model, str | Path) else ()
    if trained and min(max(scale / each, each / scale) for each in trained) > NEAR:
        known = ", ".join(f"{each:g}" for each in sorted(trained))
        raise OptionError(
            "scale",
            scale,
            f"{makes}the model {model} was trained for {known}; give one of them, or <force>",
        )


def check_original(job: Job) -> None:
    """Checks that the input is no output of a model: detail would be made of made-up detail.

    Raises:
        UsageError: it is one, and the job does not say `force`.
    """
    made = None if job.force else read_provenance(job.source)
    if made is not None and "notice" in made and "model" in made:
        raise UsageError(
            f"{job.source} was upscaled before, by {made.get('software', 'wsisr')} with the model "
            f"{made['model']}: its detail is computer-generated; give the original, or <force>"
        )


def _pixels(count: int) -> str:
    return f"{count / 1e9:.3g} gigapixels" if count >= 1e9 else f"{count / 1e6:.3g} megapixels"
