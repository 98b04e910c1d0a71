"""What finds nuclei: the protocol, and the label images it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from wsisr.errors import UsageError
from wsisr.evaluation.measures import Image

Labels = npt.NDArray[np.int32]
"""A label image, (rows, columns) int32: 0 background, 1..n the nuclei, no gaps."""


def check_labels(labels: Labels) -> None:
    """Checks that an array is a label image; kernels use its numbers as places in tables.

    Args:
        labels: must be (h, w) of whole numbers from 0 to the number of pixels.

    Raises:
        UsageError: it is something else.
    """
    if labels.ndim != 2 or labels.dtype.kind not in "iu":
        raise UsageError(
            f"labels of shape {labels.shape} and type {labels.dtype} are no label image; give two "
            "axes of whole numbers"
        )
    least, most = int(labels.min(initial=0)), int(labels.max(initial=0))
    if least < 0 or most > labels.size:
        raise UsageError(
            f"labels from {least} to {most} in an image of {labels.size} px are not numbered 1..n "
            "without gaps; relabel them first"
        )


@dataclass(frozen=True)
class ReferenceNuclei:
    """The nuclei of a real tile, and how those of any other image of the field are found.

    Attributes:
        labels: the label image.
        find: finds the nuclei of an image of the same size by the criteria `labels` came from.
    """

    labels: Labels
    find: Callable[[Image], Labels]

    @property
    def count(self) -> int:
        """Tells how many there are."""
        return int(self.labels.max(initial=0))


class Segmenter(Protocol):
    """Finds nuclei in one image, or comparably in several images of one field."""

    @property
    def searches(self) -> bool:
        """Tells whether it finds nuclei in any image, and does not only know those of HR."""
        ...

    @property
    def uses_torch(self) -> bool:
        """Tells whether a network of torch finds them."""
        ...

    @property
    def convention(self) -> str:
        """Says in one line what finds the nuclei, with versions and settings."""
        ...

    def segment(self, image: Image, mpp: float) -> Labels:
        """Finds the nuclei of one image.

        Args:
            image: (h, w, 3) uint8 RGB.
            mpp: um/px.

        Returns:
            The label image.
        """
        ...

    def against(self, hr: Image, mpp: float) -> ReferenceNuclei:
        """Finds HR's nuclei, once for all images that are judged against it.

        Args:
            hr: (h, w, 3) uint8 RGB.
            mpp: um/px.

        Returns:
            HR's nuclei, and the way to find others.
        """
        ...
