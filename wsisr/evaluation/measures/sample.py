"""TODO-DOC"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from wsisr.errors import UsageError
from wsisr.evaluation.measures import fidelity, spectrum, stain, texture
from wsisr.evaluation.measures.pixels import Image
from wsisr.evaluation.nuclei import (
    ClassicalSegmenter,
    Labels,
    NucleiAgreement,
    ReferenceNuclei,
    Segmenter,
    compare_nuclei,
)


class Measurement(NamedTuple):
    """A value and what it rests on: 1 for a whole tile, the number of nuclei for nuclear ones."""

    value: float
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Scan:
    """A real tile. What measures need of it alone is found once, for all methods it judges."""

    image: Image
    mpp: float = 0.25
    """Micrometres per pixel."""
    segmenter: Segmenter = field(default_factory=ClassicalSegmenter)

    @cached_property
    def nuclei(self) -> ReferenceNuclei:
        """Return its nuclei, and how to find those of other images of the field."""
        return self.segmenter.against(self.image, self.mpp)

    @cached_property
    def nuclear_features(self) -> tuple[texture.Features, texture.Features]:
        """Return intensity and texture of each nucleus."""
        return texture.nuclear_features(self.image, self.nuclei.labels)

    @cached_property
    def stains(self) -> npt.NDArray[np.float64]:
        """Return the histograms of haematoxylin, eosin and residual."""
        return stain.hed_histograms(self.image)

    @cached_property
    def detail(self) -> float:
        """Return the energy of the high frequencies."""
        return spectrum.band_energy(self.image)

    @cached_property
    def combs(self) -> spectrum.Combs:
        """Return the energy at the harmonics of regular grids."""
        return spectrum.comb_energies(self.image)


@dataclass(frozen=True, eq=False)
class Sample:
    """One tile to be judged. `hr` and `lr` are None where there is no reference or no input.

    What several measures need is found once, when the first of them asks for it.
    """

    sr: Image
    hr: Scan | None = None
    lr: Image | None = None

    @property
    def scan(self) -> Scan:
        """Return `hr`; `UsageError` where the sample has none."""
        if self.hr is None:
            raise UsageError("this measure needs a real high-resolution image; none was given")
        return self.hr

    @property
    def reference(self) -> Image:
        """Return the pixels of `hr`; `UsageError` where the sample has none."""
        return self.scan.image

    @property
    def source(self) -> Image:
        """Return `lr`; `UsageError` where the sample has none."""
        if self.lr is None:
            raise UsageError("this measure needs the low-resolution input; give it with --lr")
        return self.lr

    @cached_property
    def nuclei(self) -> tuple[Labels, Labels]:
        """Return the label images of SR and HR."""
        reference = self.scan.nuclei
        return reference.find(self.sr), reference.labels

    @cached_property
    def nuclei_agreement(self) -> NucleiAgreement:
        """Return how SR's nuclei match HR's."""
        return compare_nuclei(*self.nuclei)

    @cached_property
    def nuclear_l1(self) -> tuple[float, float]:
        """Return (L1 texture, L1 intensity) over HR's nuclei."""
        own = texture.nuclear_features(self.sr, self.scan.nuclei.labels)
        return texture.features_l1(own, self.scan.nuclear_features)

    @cached_property
    def combs(self) -> spectrum.Combs:
        """Return SR's energy at the harmonics of regular grids."""
        return spectrum.comb_energies(self.sr)

    @cached_property
    def ssim_means(self) -> fidelity.SsimMeans:
        """Return the means of SSIM at full resolution, which MS-SSIM starts from."""
        return fidelity.ssim_means(self.sr, self.reference)
