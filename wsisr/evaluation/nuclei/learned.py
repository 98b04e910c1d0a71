"""Nuclei found by networks, behind the protocol of `nuclei.Segmenter`.

HoVer-Net is what the paper uses: the published weights need a GPU to be quick. InstanSeg
(Goldsborough et al. 2024) is smaller. Both judge each image alone: they have no threshold that
could be taken from HR.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from skimage.segmentation import watershed

from wsisr.errors import ModelError, OptionError, UsageError
from wsisr.evaluation.measures import Image, check_image
from wsisr.evaluation.nuclei.classical import ClassicalSegmenter, keep_by_area
from wsisr.evaluation.nuclei.given import GEOJSON_SUFFIXES, GivenNuclei
from wsisr.evaluation.nuclei.segmenter import Labels, ReferenceNuclei, Segmenter
from wsisr.evaluation.weights import cached_sha256, find_weights
from wsisr.resize import resize_to

SEGMENTERS = ("classical", "hovernet", "instanseg")
"""Names of segmenters; a path to given nuclei is one too."""
HOVERNET_MPP, INSTANSEG_MPP = 0.25, 0.5
BATCH = 8


def choose_segmenter(name: str) -> Segmenter:
    """Makes the segmenter of a name.

    Args:
        name: one of `SEGMENTERS`, a folder of label images, or a GeoJSON file.

    Returns:
        The segmenter.

    Raises:
        ModelError: its weights are missing or wrong.
        OptionError: the name is something else.
    """
    if name == "classical":
        return ClassicalSegmenter()
    if name in ("hovernet", "instanseg"):
        (path,) = find_weights(name).values()
        return HoVerNetSegmenter(path) if name == "hovernet" else InstanSegSegmenter(path)
    if Path(name).is_dir() or Path(name).suffix.lower() in GEOJSON_SUFFIXES:
        return GivenNuclei(Path(name))
    raise OptionError(
        "segmenter",
        name,
        f"neither {', '.join(SEGMENTERS)} nor a folder of label images nor a GeoJSON file",
    )


@dataclass(frozen=True)
class HoVerNetSegmenter:
    """Finds nuclei by HoVer-Net at 0.25 um/px, on a GPU where there is one, else on the CPU.

    Attributes:
        path: the checkpoint.
    """

    path: Path
    searches = True
    uses_torch = True

    @property
    def convention(self) -> str:
        """Tells what finds the nuclei."""
        return (
            f"HoVer-Net, {self.path.name} (SHA-256 {cached_sha256(self.path)[:12]}...), "
            f"{HOVERNET_MPP} um/px, 270 to 80 px patches, watershed as published"
        )

    def segment(self, image: Image, mpp: float) -> Labels:
        """Finds the nuclei of one image.

        Args:
            image: (h, w, 3) uint8 RGB.
            mpp: um/px, at most 2.

        Returns:
            The label image.

        Raises:
            UsageError: the array is no image, or the resolution is too coarse.
            ModelError: the checkpoint is another.
        """
        check_image(image, "the image")
        maps = self._maps(_rescaled(image, mpp, HOVERNET_MPP))
        return _to_size(separate(*maps), image)

    def against(self, hr: Image, mpp: float) -> ReferenceNuclei:
        """Finds HR's nuclei; those of other images are found in the same way.

        Args:
            hr: (h, w, 3) uint8 RGB.
            mpp: um/px, at most 2.

        Returns:
            HR's nuclei, and the way to find others.
        """
        return ReferenceNuclei(self.segment(hr, mpp), lambda image: self.segment(image, mpp))

    def _maps(self, image: Image) -> npt.NDArray[np.float32]:
        """Computes probability, horizontal and vertical map, (3, h, w)."""
        import torch

        from wsisr.evaluation.networks import OUTPUT, PATCH

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = _hovernet(self.path).to(device)
        rows, columns = (-(-side // OUTPUT) for side in image.shape[:2])
        margin = (PATCH - OUTPUT) // 2
        padded = _reflected(
            image,
            (margin, rows * OUTPUT - image.shape[0] + margin),
            (margin, columns * OUTPUT - image.shape[1] + margin),
        )
        corners = [(y * OUTPUT, x * OUTPUT) for y in range(rows) for x in range(columns)]
        maps = np.empty((3, rows * OUTPUT, columns * OUTPUT), np.float32)
        for start in range(0, len(corners), BATCH):
            some = corners[start : start + BATCH]
            patches = np.stack([padded[y : y + PATCH, x : x + PATCH] for y, x in some])
            with torch.inference_mode():
                pixels = torch.from_numpy(patches).to(device).permute(0, 3, 1, 2).float()
                found = network(pixels)
                inside = found["np"].softmax(dim=1)[:, 1:]
                joined = torch.cat([inside, found["hv"]], dim=1).cpu().numpy()
            for (y, x), values in zip(some, joined, strict=True):
                maps[:, y : y + OUTPUT, x : x + OUTPUT] = values
        return maps[:, : image.shape[0], : image.shape[1]]


@dataclass(frozen=True)
class InstanSegSegmenter:
    """Finds nuclei by InstanSeg's `brightfield_nuclei` at 0.5 um/px, from its TorchScript file.

    TorchScript is a program, though one that can only compute on tensors: take it from its
    authors alone.

    Attributes:
        path: the TorchScript file.
    """

    path: Path
    searches = True
    uses_torch = True

    @property
    def convention(self) -> str:
        """Tells what finds the nuclei."""
        return (
            f"InstanSeg, {self.path.name} (SHA-256 {cached_sha256(self.path)[:12]}...), "
            f"{INSTANSEG_MPP} um/px, channels scaled between their 0.1 and 99.9 percentiles"
        )

    def segment(self, image: Image, mpp: float) -> Labels:
        """Finds the nuclei of one image.

        Args:
            image: (h, w, 3) uint8 RGB.
            mpp: um/px, at most 2.

        Returns:
            The label image.

        Raises:
            UsageError: the array is no image, or the resolution is too coarse.
            ModelError: the file does not behave as InstanSeg.
        """
        import torch

        check_image(image, "the image")
        coarse = _rescaled(image, mpp, INSTANSEG_MPP)
        low, high = np.percentile(coarse, [0.1, 99.9], axis=(0, 1))
        scaled = (coarse - low) / np.maximum(high - low, 1e-3)
        pads = [(0, -side % 32) for side in coarse.shape[:2]]
        padded = _reflected(scaled.astype(np.float32), *pads)
        pixels = torch.from_numpy(np.ascontiguousarray(padded)).permute(2, 0, 1)[None]
        try:
            with torch.inference_mode():
                found = _torchscript(self.path)(pixels)
        except RuntimeError as error:
            line = (str(error).strip().splitlines() or ["no reason given"])[-1]
            raise ModelError(f"{self.path} does not behave as InstanSeg: {line}") from error
        if not isinstance(found, torch.Tensor) or found.shape[-2:] != pixels.shape[-2:]:
            raise ModelError(f"{self.path} does not behave as InstanSeg: it gives no label image")
        labels = found.reshape(-1, *padded.shape[:2])[0].numpy().astype(np.int32)
        return _to_size(labels[: coarse.shape[0], : coarse.shape[1]], image)

    def against(self, hr: Image, mpp: float) -> ReferenceNuclei:
        """Finds HR's nuclei; those of other images are found in the same way.

        Args:
            hr: (h, w, 3) uint8 RGB.
            mpp: um/px, at most 2.

        Returns:
            HR's nuclei, and the way to find others.
        """
        return ReferenceNuclei(self.segment(hr, mpp), lambda image: self.segment(image, mpp))


def separate(
    probability: npt.NDArray[np.float32],
    horizontal: npt.NDArray[np.float32],
    vertical: npt.NDArray[np.float32],
) -> Labels:
    """Separates nuclei in HoVer-Net's maps.

    Where the distances jump, one nucleus ends and the next begins: steep places become walls, the
    rest seeds of a watershed inside the mask. Constants as published (0.5, 0.4, 21 px, 10 px).

    Args:
        probability: (h, w), that of a nucleus.
        horizontal: (h, w), distance to its centre, -1 to 1.
        vertical: (h, w), the same.

    Returns:
        The label image.
    """
    mask = _components((probability >= 0.5).astype(np.uint8), 10) > 0
    steep = [
        1 - _stretched(cv2.Sobel(_stretched(plane), cv2.CV_64F, dx, dy, ksize=21))
        for plane, dx, dy in ((horizontal, 1, 0), (vertical, 0, 1))
    ]
    walls = np.maximum(np.maximum(*steep) - ~mask, 0)
    basins = -cv2.GaussianBlur((1 - walls) * mask, (3, 3), 0)
    seeds = _without_holes((mask & (walls < 0.4)).astype(np.uint8))
    seeds = cv2.morphologyEx(
        seeds, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    )
    return keep_by_area(watershed(basins, _components(seeds, 10), mask=mask), 1, np.inf)


def _rescaled(image: Image, mpp: float, wanted: float) -> Image:
    if not 0 < mpp <= 2:
        raise UsageError(f"nuclei cannot be found at {mpp} um/px; give a finer level, <= 2")
    width, height = (max(1, round(side * mpp / wanted)) for side in image.shape[1::-1])
    size = width, height
    return image if size == image.shape[1::-1] else resize_to(image, size)


def _to_size(labels: Labels, image: Image) -> Labels:
    if labels.shape != image.shape[:2]:
        size = image.shape[1::-1]
        labels = np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT))
    return keep_by_area(labels, 1, np.inf)


def _reflected(image: npt.NDArray[Any], down: tuple[int, int], across: tuple[int, int]) -> Any:
    # symmetric goes on where an image is smaller than its margin
    return np.pad(image, (down, across, (0, 0)), mode="symmetric")


def _components(binary: npt.NDArray[np.uint8], least: int) -> Labels:
    return keep_by_area(cv2.connectedComponents(binary, connectivity=4)[1], least, np.inf)


def _without_holes(binary: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Fills background that does not reach the border."""
    padded = cv2.copyMakeBorder(1 - binary, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=1)
    regions = cv2.connectedComponents(padded, connectivity=4)[1]
    return np.asarray(regions[1:-1, 1:-1] != regions[0, 0], dtype=np.uint8)


def _stretched(plane: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return np.asarray(cv2.normalize(plane, None, 0, 1, cv2.NORM_MINMAX, cv2.CV_32F))


@lru_cache(maxsize=1)
def _hovernet(path: Path) -> Any:
    from wsisr.evaluation.networks import build_hovernet, load_state

    return build_hovernet(load_state(path), str(path))


@lru_cache(maxsize=1)
def _torchscript(path: Path) -> Any:
    import torch

    try:
        return torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"{path} is no TorchScript file; fetch InstanSeg's again") from error
