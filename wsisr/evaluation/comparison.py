"""Opens what is compared: slide against slide, folder against folder, or a slide alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from wsisr.evaluation.options import Options
from wsisr.evaluation.pairing import (
    Alignment,
    FolderPairs,
    PairSource,
    SlidePairs,
    load_transform,
    part_of,
    pixel_size,
    register,
)
from wsisr.sharing import file_name
from wsisr.slides import open_slide

ASSUMED_MPP = 0.25
"""um/px of SR where nothing tells it and nothing is registered by it."""


@dataclass(frozen=True)
class Inputs:
    """The files of an evaluation and what the user says of them.

    Attributes:
        label: what tables call SR.
        sr: slide, or folder of tiles.
        hr: the real scan or tiles, None where there are none.
        lr: what was upscaled, None where it is not given.
        also: {label: path} of further results.
        tiles: whether the paths are folders of tiles.
        scale: the factor by which LR tiles are made from HR.
        transform: JSON file in place of registration.
        sr_mpp: um/px of SR, where it is given.
        hr_mpp: um/px of HR, where it is given.
    """

    label: str
    sr: Path
    hr: Path | None = None
    lr: Path | None = None
    also: Mapping[str, Path] = field(default_factory=dict)
    tiles: bool = False
    scale: int | None = None
    transform: Path | None = None
    sr_mpp: float | None = None
    hr_mpp: float | None = None

    def paths(self) -> list[Path]:
        """Lists the files and folders."""
        return [Path(path) for path in self.listed().values()]

    def listed(self) -> dict[str, str]:
        """Gives {what: name of its file} for the report, which may be passed on."""
        paths = {"sr": self.sr, "hr": self.hr, "lr": self.lr, "transform": self.transform}
        paths |= {f"also {label}": path for label, path in self.also.items()}
        return {name: file_name(path) for name, path in paths.items() if path is not None}


@dataclass(frozen=True)
class Comparison:
    """Opened inputs, ready to be measured.

    Attributes:
        pairs: gives the tiles.
        label: what tables call SR.
        inputs: {what: path}.
        alignments: {label: alignment} of all results, SR first; empty without registration.
    """

    pairs: PairSource
    label: str
    inputs: Mapping[str, str]
    alignments: Mapping[str, Alignment]


@contextmanager
def open_comparison(inputs: Inputs, options: Options) -> Iterator[Comparison]:
    """Opens the inputs and registers them where slides are compared.

    Args:
        inputs: the files.
        options: which tiles are drawn.

    Yields:
        The comparison; its slides are open until the block ends.

    Raises:
        UsageError: options do not fit, a pixel size is unknown, or folders do not match.
        SlideError: a slide cannot be read, or both do not show the same tissue.
    """
    with ExitStack() as stack:
        alignments: dict[str, Alignment] = {}
        pairs: PairSource
        if inputs.tiles:
            pairs = _open_folders(inputs)
        elif inputs.hr is None:
            pairs = _open_alone(stack, inputs, options)
        else:
            pairs, alignments = _open_slides(stack, inputs, inputs.hr, options)
        yield Comparison(pairs, inputs.label, inputs.listed(), alignments)


def _open_folders(inputs: Inputs) -> FolderPairs:
    assert inputs.hr is not None  # folders are never judged alone
    mpp = inputs.sr_mpp or ASSUMED_MPP
    return FolderPairs(inputs.sr, inputs.hr, inputs.lr, inputs.scale, mpp, inputs.also)


def _open_alone(stack: ExitStack, inputs: Inputs, options: Options) -> SlidePairs:
    sr = stack.enter_context(open_slide(inputs.sr))
    return SlidePairs(
        sr,
        inputs.sr_mpp or sr.mpp or ASSUMED_MPP,
        lr=None if inputs.lr is None else stack.enter_context(open_slide(inputs.lr)),
        tile_size=options.tile_size,
        count=options.count,
        seed=options.seed,
        also={name: stack.enter_context(open_slide(path)) for name, path in inputs.also.items()},
        part=part_of(inputs.sr),
    )


def _open_slides(
    stack: ExitStack, inputs: Inputs, hr_path: Path, options: Options
) -> tuple[SlidePairs, dict[str, Alignment]]:
    matrix = None if inputs.transform is None else load_transform(inputs.transform)
    sr, hr = (stack.enter_context(open_slide(path)) for path in (inputs.sr, hr_path))
    lr = None if inputs.lr is None else stack.enter_context(open_slide(inputs.lr))
    alignment = register(sr, hr, inputs.sr_mpp, inputs.hr_mpp, matrix)
    found = np.array(alignment.matrix)
    pairs = SlidePairs(
        sr,
        pixel_size(sr, inputs.sr_mpp, "sr"),
        hr,
        lr,
        found,
        options.tile_size,
        options.count,
        options.seed,
        {name: stack.enter_context(open_slide(path)) for name, path in inputs.also.items()},
        part_of(inputs.sr),
    )
    others = {name: register(slide, hr, transform=found) for name, slide in pairs.also.items()}
    return pairs, {inputs.label: alignment, **others}
