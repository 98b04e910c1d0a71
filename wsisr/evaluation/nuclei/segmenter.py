"""TODO-DOC"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from wsisr.evaluation.measures import Image

Labels = npt.NDArray[np.int32]
"""A label image, (rows, columns) int32: 0 background, 1..n the nuclei, no gaps."""


@dataclass(frozen=True)
class ReferenceNuclei:
    """The nuclei of a real tile, and how those of any other image of the field are found."""

    labels: Labels
    find: Callable[[Image], Labels]
    """Returns the nuclei of an image of the same size by the criteria `labels` came from."""

    @property
    def count(self) -> int:
        """Return how many there are."""
        return int(self.labels.max(initial=0))


class Segmenter(Protocol):
    """Finds nuclei in one image, or comparably in several images of one field."""

    @property
    def searches(self) -> bool:
        """Return whether it finds nuclei in any image, not only knows those of HR."""
        ...

    @property
    def uses_torch(self) -> bool:
        """Return whether a network of torch finds them."""
        ...

    @property
    def convention(self) -> str:
        """Return one line that says what finds the nuclei, with versions and settings."""
        ...

    def segment(self, image: Image, mpp: float) -> Labels:
        """Return the nuclei of a (h, w, 3) uint8 RGB image at `mpp` um/px."""
        ...

    def against(self, hr: Image, mpp: float) -> ReferenceNuclei:
        """Return HR's nuclei, found once for all images that are judged against it."""
        ...
