"""TODO-DOC"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from wsisr.errors import UsageError

if TYPE_CHECKING:
    from wsisr.evaluation.nuclei import ClassicalSegmenter


def nuclear_features_l1(a: Tensor, b: Tensor, mpp: float = 0.25) -> Tensor:
    """Difference of the grey levels inside each nucleus of the reference, L1, over 255.

    Mean, standard deviation, skewness and kurtosis, which the paper compares nucleus by nucleus
    (`wsisr.evaluation.measures.texture`), and the root mean square step between neighbours. They are what a
    pathologist reads chromatin by; windows of a fixed size mix it with what lies around. The
    nuclei are those that the classical segmenter finds in the reference, so an image gains nothing
    by hiding or inventing any. Zero where there are none. `mpp` is that of both, in um/px; crops
    of another magnification are near enough to it.

    Raises:
        UsageError: OpenCV or numba is missing; see `nuclear_segmenter`.
    """
    segmenter = nuclear_segmenter()
    labels, count = [], 0
    for image in _levels(b):
        found = segmenter.segment(image, mpp).astype(np.int64)
        labels.append(np.where(found > 0, found + count, 0))
        count += int(found.max(initial=0))
    if not count:
        return a.new_zeros(())
    ids = torch.from_numpy(np.stack(labels)).to(a.device)
    return (_nuclear(a, ids, count) - _nuclear(b, ids, count)).abs().mean(1).sum() / 255


def unmatched_nuclei(a: Tensor, b: Tensor, mpp: float = 0.25) -> Tensor:
    """How much stain makes nuclei of an image that the reference lacks, or hides nuclei of it.

    The nuclei of both that `wsisr.evaluation.nuclei.agreement.agreement` leaves without a match, found by the
    reference's threshold as `nuclei_precision` and `nuclei_recall` find them: in an invented one,
    the haematoxylin density by which the image exceeds the reference; in a lost one, by which it
    falls short. Means over each nucleus, their sum over the number of nuclei in the reference.
    Nuclei are sought in the image as it is, with no gradient; the densities, blurred as for the
    search, have one. `mpp` in um/px.

    Raises:
        UsageError: OpenCV or numba is missing; see `nuclear_segmenter`.
    """
    segmenter = nuclear_segmenter()
    from wsisr.evaluation.nuclei import compare_nuclei

    images, references = (_levels(batch) for batch in (a, b))
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
    excess = _haematoxylin(a, segmenter.blur_um / mpp) - _haematoxylin(b, segmenter.blur_um / mpp)
    more, less = (torch.from_numpy(weight).to(a.device) for weight in (invented, lost))
    return ((more * F.relu(excess) + less * F.relu(-excess)).sum()) / max(count, 1)


def _levels(x: Tensor) -> NDArray[np.uint8]:
    """(B, 3, H, W) in [0, 1] as uint8 RGB (B, H, W, 3)."""
    levels = (x.detach().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
    return np.ascontiguousarray(levels.cpu().numpy())


def _haematoxylin(x: Tensor, sigma: float) -> Tensor:
    """Optical density of haematoxylin, as `wsisr.evaluation.measures.stain`, blurred, (B, H, W)."""
    from wsisr.evaluation.measures import RGB_FROM_HED

    density = -((255 * x.clamp(0, 1) + 1) / 256).log10()
    weights = torch.from_numpy(np.linalg.inv(RGB_FROM_HED)[:, :1]).to(x).view(1, 3, 1, 1)
    reach = round(3 * sigma)
    bell = torch.exp(-(torch.arange(-reach, reach + 1, device=x.device) ** 2) / (2 * sigma**2))
    bell = bell / bell.sum()
    amount = F.pad((density * weights).sum(1, keepdim=True), (reach,) * 4, mode="reflect")
    rows = F.conv2d(amount, bell.view(1, 1, -1, 1))
    return F.conv2d(rows, bell.view(1, 1, 1, -1))[:, 0]


def nuclear_segmenter() -> ClassicalSegmenter:
    """What finds the nuclei; imported here, for the other losses need neither OpenCV nor numba.

    Raises:
        UsageError: one of them is missing.
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


def _nuclear(x: Tensor, ids: Tensor, count: int) -> Tensor:
    """Features of nuclei 1..count, (5, count), of RGB in [0, 1] and labels (B, H, W)."""
    luma = 255 * (x * x.new_tensor((0.299, 0.587, 0.114))[:, None, None]).sum(1)

    def means(values: Tensor, at: Tensor) -> Tensor:
        """Of values by nucleus; those of the background, at 0, are left out."""
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
