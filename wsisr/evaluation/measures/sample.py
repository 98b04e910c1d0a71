"""What measures are computed from: a tile, its scan, and what several measures share."""

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
    """A value of a tile and what it rests on.

    Attributes:
        value: NaN where it is not defined.
        weight: 1 for a whole tile, the number of nuclei for nuclear measures.
    """

    value: float
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Scan:
    """A real tile. What measures need of it alone is found once, for all methods it judges.

    Attributes:
        image: (h, w, 3) uint8 RGB.
        mpp: um/px.
        segmenter: what finds nuclei.
    """

    image: Image
    mpp: float = 0.25
    segmenter: Segmenter = field(default_factory=ClassicalSegmenter)

    @cached_property
    def nuclei(self) -> ReferenceNuclei:
        """Finds its nuclei, and how to find those of other images of the field."""
        return self.segmenter.against(self.image, self.mpp)

    @cached_property
    def nuclear_features(self) -> tuple[texture.Features, texture.Features]:
        """Gives intensity and texture of each nucleus."""
        return texture.nuclear_features(self.image, self.nuclei.labels)

    @cached_property
    def stains(self) -> npt.NDArray[np.float64]:
        """Gives the histograms of haematoxylin, eosin and residual."""
        return stain.hed_histograms(self.image)

    @cached_property
    def detail(self) -> float:
        """Gives the energy of the high frequencies."""
        return spectrum.band_energy(self.image)

    @cached_property
    def combs(self) -> spectrum.Combs:
        """Gives the energy at the harmonics of regular grids."""
        return spectrum.comb_energies(self.image)


@dataclass(frozen=True, eq=False)
class Sample:
    """One tile to be judged. What several measures need is found once, when first asked for.

    Attributes:
        sr: (h, w, 3) uint8 RGB, the result.
        hr: the real tile of the same size, None where there is none.
        lr: the input, (h / s, w / s, 3) uint8 RGB, None where it is not given.
    """

    sr: Image
    hr: Scan | None = None
    lr: Image | None = None

    @property
    def scan(self) -> Scan:
        """Gives `hr`.

        Raises:
            UsageError: the sample has none.
        """
        if self.hr is None:
            raise UsageError("this measure needs a real high-resolution image; none was given")
        return self.hr

    @property
    def reference(self) -> Image:
        """Gives the pixels of `hr`.

        Raises:
            UsageError: the sample has none.
        """
        return self.scan.image

    @property
    def source(self) -> Image:
        """Gives `lr`.

        Raises:
            UsageError: the sample has none.
        """
        if self.lr is None:
            raise UsageError("this measure needs the low-resolution input; give it as <lr>")
        return self.lr

    @cached_property
    def nuclei(self) -> tuple[Labels, Labels]:
        """Gives the label images of SR and HR."""
        reference = self.scan.nuclei
        return reference.find(self.sr), reference.labels

    @cached_property
    def nuclei_agreement(self) -> NucleiAgreement:
        """Tells how SR's nuclei match HR's."""
        return compare_nuclei(*self.nuclei)

    @cached_property
    def nuclear_l1(self) -> tuple[float, float]:
        """Gives (L1 texture, L1 intensity) over HR's nuclei."""
        own = texture.nuclear_features(self.sr, self.scan.nuclei.labels)
        return texture.features_l1(own, self.scan.nuclear_features)

    @cached_property
    def combs(self) -> spectrum.Combs:
        """Gives SR's energy at the harmonics of regular grids."""
        return spectrum.comb_energies(self.sr)

    @cached_property
    def ssim_means(self) -> fidelity.SsimMeans:
        """Gives the means of SSIM at full resolution, which MS-SSIM starts from."""
        return fidelity.ssim_means(self.sr, self.reference)
