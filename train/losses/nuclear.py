"""Losses that look at nuclei: their grey levels, and those that are invented or lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from train.losses.local import gaussian_window
from wsisr.errors import UsageError

if TYPE_CHECKING:
    from wsisr.evaluation.nuclei import ClassicalSegmenter


def nuclear_features_l1(a: Tensor, b: Tensor, mpp: float = 0.25) -> Tensor:
    """Compares the grey levels inside each nucleus of the reference by L1, over 255.

    They are mean, standard deviation, skewness and kurtosis, which the paper compares nucleus by
    nucleus (`wsisr.evaluation.measures.nuclear_features`), and the root mean square step between
    neighbours. A pathologist reads chromatin by them; windows of a fixed size mix it with what lies
    around. The nuclei are those that the classical segmenter finds in the reference, so an image
    gains nothing by hiding or inventing any.

    Args:
        a: images, (B, 3, H, W) in [0, 1].
        b: the reference, of the same shape.
        mpp: resolution of both, um/px; crops of another magnification are near enough to it.

    Returns:
        A scalar; zero where there are no nuclei.

    Raises:
        UsageError: OpenCV or numba is missing; see `nuclear_segmenter`.
    """
    segmenter = nuclear_segmenter()
    labels, count = [], 0
    for image in to_uint8(b):
        found = segmenter.segment(image, mpp).astype(np.int64)
        labels.append(np.where(found > 0, found + count, 0))
        count += int(found.max(initial=0))
    if not count:
        return a.new_zeros(())
    ids = torch.from_numpy(np.stack(labels)).to(a.device)
    return (_grey_levels(a, ids, count) - _grey_levels(b, ids, count)).abs().mean(1).sum() / 255


def unmatched_nuclei(a: Tensor, b: Tensor, mpp: float = 0.25) -> Tensor:
    """Tells how much stain makes nuclei that the reference lacks, or hides nuclei of it.

    The nuclei of both are those that `wsisr.evaluation.nuclei.compare_nuclei` leaves without a
    match, found by the reference's threshold as `nuclei_precision` and `nuclei_recall` find them.
    An invented one costs the haematoxylin density by which the image exceeds the reference, a lost
    one that by which it falls short: means over each nucleus, and their sum over the number of
    nuclei in the reference. Nuclei are sought in the image as it is, with no gradient; the
    densities, blurred as for the search, have one.

    Args:
        a: images, (B, 3, H, W) in [0, 1].
        b: the reference, of the same shape.
        mpp: resolution of both, um/px.

    Raises:
        UsageError: OpenCV or numba is missing; see `nuclear_segmenter`.
    """
    segmenter = nuclear_segmenter()
    from wsisr.evaluation.nuclei import compare_nuclei

    images, references = (to_uint8(batch) for batch in (a, b))
    invented, lost = np.zeros((2, *images.shape[:3]), np.float32)
    count = 0
    for n, (image, reference) in enumerate(zip(images, references, strict=True)):
        nuclei = segmenter.against(reference, mpp)
        found = nuclei.find(image)
        unmatched = compare_nuclei(found, nuclei.labels)
        count += nuclei.count
        for weight, labels, which in (
            (invented, found, unmatched.invented()),
            (lost, nuclei.labels, unmatched.lost()),
        ):
            share = np.zeros(int(labels.max(initial=0)) + 1, np.float32)
            share[which] = 1 / np.bincount(labels.ravel(), minlength=share.size)[which]
            weight[n] = share[labels]
    density, wanted = (haematoxylin_density(x, segmenter.blur_um / mpp) for x in (a, b))
    excess = density - wanted
    more, less = (torch.from_numpy(weight).to(a.device) for weight in (invented, lost))
    return ((more * F.relu(excess) + less * F.relu(-excess)).sum()) / max(count, 1)


def to_uint8(x: Tensor) -> NDArray[np.uint8]:
    """Turns (B, 3, H, W) in [0, 1] into uint8 RGB (B, H, W, 3)."""
    levels = (x.detach().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
    return np.ascontiguousarray(levels.cpu().numpy())


def haematoxylin_density(x: Tensor, sigma: float) -> Tensor:
    """Gives the optical density of haematoxylin, blurred by a Gaussian.

    It is that of `wsisr.evaluation.measures.haematoxylin`, with a gradient.

    Args:
        x: (B, 3, H, W) in [0, 1].
        sigma: of the Gaussian, px.

    Returns:
        (B, H, W).
    """
    from wsisr.evaluation.measures import RGB_FROM_HED

    density = -((255 * x.clamp(0, 1) + 1) / 256).log10()
    weights = torch.from_numpy(np.linalg.inv(RGB_FROM_HED)[:, :1]).to(x).view(1, 3, 1, 1)
    reach = round(3 * sigma)
    bell = gaussian_window(reach, sigma, x.device)
    bell = bell / bell.sum()
    amount = F.pad((density * weights).sum(1, keepdim=True), (reach,) * 4, mode="reflect")
    rows = F.conv2d(amount, bell.view(1, 1, -1, 1))
    return F.conv2d(rows, bell.view(1, 1, 1, -1))[:, 0]


def nuclear_segmenter() -> ClassicalSegmenter:
    """Makes what finds the nuclei; the other losses need neither OpenCV nor numba.

    Raises:
        UsageError: OpenCV or numba is missing.
    """
    try:
        from wsisr.evaluation.nuclei import ClassicalSegmenter
    except ImportError as error:
        raise UsageError(
            f"loss.nuclear finds nuclei by OpenCV and numba ({error}); install wsisr with its "
            "dependencies, or train without it: --set distill.loss.nuclear=0 "
            "--set distill.loss.unmatched=0"
        ) from error
    return ClassicalSegmenter()


def _grey_levels(x: Tensor, ids: Tensor, count: int) -> Tensor:
    """Gives features (5, count) of nuclei 1..count, by RGB in [0, 1] and labels (B, H, W)."""
    luma = 255 * (x * x.new_tensor((0.299, 0.587, 0.114))[:, None, None]).sum(1)

    def means(values: Tensor, at: Tensor) -> Tensor:
        """Gives the means of values by nucleus, without the background's, which is 0."""
        total = values.new_zeros(count + 1).index_add(0, at.flatten(), values.flatten())
        return (total / torch.bincount(at.flatten(), minlength=count + 1).clamp_min(1))[1:]

    mean = means(luma, ids)
    apart = luma - torch.cat((mean.new_zeros(1), mean))[ids]
    second, third, fourth = (means(apart**k, ids) for k in (2, 3, 4))
    second = second + 1  # a flat nucleus has neither skewness nor kurtosis
    steps = torch.ones_like(mean)
    for dim in (1, 2):
        size = ids.shape[dim] - 1
        here, there = (ids.narrow(dim, start, size) for start in (0, 1))
        squares = luma.diff(dim=dim).square()
        steps = steps + means(squares, torch.where(here == there, here, 0)) / 2
    kurtosis = fourth / second.square()
    return torch.stack((mean, second.sqrt(), third / second**1.5, kurtosis, steps.sqrt()))
