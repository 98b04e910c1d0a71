"""Image losses, and the discriminators that some of them need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from wsisr.errors import UsageError
from wsisr.evaluation.networks.states import load_state
from wsisr.evaluation.networks.vgg import (
    ST_LPIPS_CHANNELS,
    st_lpips_distance,
    st_lpips_levels,
)
from wsisr.evaluation.weights import find
from wsisr.models.restoration import channels_last

if TYPE_CHECKING:
    from wsisr.evaluation.nuclei import ClassicalSegmenter

AHEAD = 50
"""Iterations a rival learns before it is heard, so that its first word is not noise."""

PERCEPTUAL_EVERY = 2
"""Images from one that `perceptual_distance` looks at to the next."""


def gradient_l1(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of the finite differences of two batches (B, C, H, W)."""
    d = a - b
    rows = (d[:, :, 1:] - d[:, :, :-1]).abs().mean()
    columns = (d[:, :, :, 1:] - d[:, :, :, :-1]).abs().mean()
    return rows + columns


def texture_l1(a: Tensor, b: Tensor, window: int = 8) -> Tensor:
    """Difference of local contrast: the standard deviation of luma in windows, L1.

    A plain L1 loss answers detail it cannot place with grey; this term asks for the right amount
    of it without saying where, which is what texture means to an eye.
    """
    return (_local_deviation(a, window) - _local_deviation(b, window)).abs().mean()


def _local_deviation(x: Tensor, window: int) -> Tensor:
    luma = x.mean(1, keepdim=True)
    fine = luma - F.avg_pool2d(luma, 3, 1, 1, count_include_pad=False)
    return (F.avg_pool2d(fine.square(), window, window // 2) + 1e-6).sqrt()


def contrast_l1(a: Tensor, b: Tensor, window: int = 16) -> Tensor:
    """Difference of local contrast: the root mean square step to the next pixel, in windows, L1.

    The squared step is the contrast of a grey-level co-occurrence matrix (Haralick et al. 1973),
    by which chromatin is described; here over windows of about half a nucleus, so that each keeps
    its own amount. Rows, columns and steps of one and two pixels are compared apart.
    """
    total = a.new_zeros(())
    for dim in (2, 3):
        for step in (1, 2):
            total = (
                total + (_steps(a, dim, step, window) - _steps(b, dim, step, window)).abs().mean()
            )
    return total / 4


def _steps(x: Tensor, dim: int, step: int, window: int) -> Tensor:
    luma = x.mean(1, keepdim=True)
    size = x.shape[dim] - step
    squares = (luma.narrow(dim, step, size) - luma.narrow(dim, 0, size)).square()
    return (F.avg_pool2d(squares, window, window // 2) + 1e-6).sqrt()


def deviation_l1(a: Tensor, b: Tensor, window: int = 16) -> Tensor:
    """Difference of contrast as a whole: the standard deviation of luma in windows, L1.

    Windows of about half a nucleus hold its outline, its membrane and its chromatin. Where the
    input does not say where these lie, the losses pixel by pixel take their contrast away and
    leave nuclei paler and flatter than the scan's; `contrast_l1` sees the finest steps only.
    """
    return (_deviations(a, window) - _deviations(b, window)).abs().mean()


def _deviations(x: Tensor, window: int) -> Tensor:
    luma = x.mean(1, keepdim=True)
    mean, square = (F.avg_pool2d(v, window, window // 2) for v in (luma, luma.square()))
    return ((square - mean.square()).clamp_min(0) + 1e-5).sqrt()


def grid_penalty(a: Tensor, b: Tensor, period: int = 16) -> Tensor:
    """How much more than the reference's, detail depends on its place in a regular grid.

    Decoders of latents and folded pixels leave such grids; tissue has none. The mean absolute step
    between neighbours at each phase of the period, relative to that of all phases; the squared
    difference of the two images', over rows and columns. That both show the same tissue takes
    most of the chance out of it. Crops must be at random places of the scans, at least two periods
    wide.
    """
    total = a.new_zeros(())
    for dim in (2, 3):
        own, reference = (_phases(image, dim, period) for image in (a, b))
        total = total + (own - reference).square().mean()
    return total


def _phases(x: Tensor, dim: int, period: int) -> Tensor:
    steps = x.mean(1, keepdim=True).diff(dim=dim).abs().transpose(dim, 3).mean((0, 1, 2))
    phases = steps[: len(steps) // period * period].view(-1, period).mean(0)
    return phases / phases.mean().detach().clamp_min(1e-4)


def coarse_l1(a: Tensor, b: Tensor) -> Tensor:
    """L1 of the means over 2x2 and over 4x4 pixels: outlines, without a word about grain.

    Where nuclei are and how large they look is decided there; plain L1 asks for it too, but pays
    for every grain that is not where the scan has it, and so takes the grain away.
    """
    total, d = a.new_zeros(()), a - b
    for _ in range(2):
        d = F.avg_pool2d(d, 2)
        total = total + d.abs().mean()
    return total / 2


def spread_l1(images: Tensor, samples: int) -> Tensor:
    """Half the mean absolute difference between samples of the same crops.

    What the energy score (Gneiting and Raftery 2007) takes from their mean absolute error: an L1
    that lets samples differ by as much as they are wrong, and so where they are wrong. Its full
    weight costs a single sample several dB; a part of it keeps a distilled sampler from making
    the same image of all noise. Sample i of crop c is `images[i * crops + c]`.
    """
    stacked = images.reshape(samples, -1, *images.shape[1:])
    return (stacked - stacked.roll(1, 0)).abs().mean() / 2


def spectrum_l1(a: Tensor, b: Tensor, window: int = 32) -> Tensor:
    """Mean absolute difference of the log power spectra of luma, averaged over batch and windows.

    A spectrum says how much there is of each frequency and direction, not where: hatching, grids of
    any phase and missing detail show, a grain that is elsewhere does not. Windows (Hann, half
    overlapping) are scaled by their own contrast in `b` first, so that flat stroma counts as much
    as chromatin; a few hundred of them in a batch hold the noise of the estimate at some per cent.
    """
    powers = [_power(image, window) for image in (a, b)]
    scale = 1 / (_windows(b, window).var(2) + 1e-5)[..., None, None]
    own, reference = (((power * scale).mean((0, 1)) + 1e-4).log() for power in powers)
    return (own - reference).abs().mean()


def mesh_penalty(a: Tensor, b: Tensor, period: int = 4, allowed: float = 0.1) -> Tensor:
    """How much more of a window's fine power than in the reference's lies in a mesh of a period.

    Rows and columns of that period, by the power spectrum of 32 px windows, as a share of all
    power finer than 6 px; a share may be `allowed` larger than the reference's. `grid_penalty`
    looks at a batch as a whole, where a mesh on one pale place in a thousand does not count.
    """
    window = 32
    ky = (torch.fft.fftfreq(window, 1 / window, device=a.device).abs())[:, None]
    kx = torch.arange(window // 2 + 1, device=a.device)
    sides = 1 + ((kx > 0) & (kx < window // 2)).float()
    near = (torch.maximum(ky, kx) - window / period).abs() <= 1
    mesh = (near & (torch.minimum(ky, kx) <= 1)) * sides
    fine = (torch.maximum(ky, kx) >= 5) * sides
    shares = []
    for image in (a, b):
        power = _power(image, window)
        # the constant keeps the noise of bare glass out of it
        shares.append((power * mesh).sum((2, 3)) / ((power * fine).sum((2, 3)) + 0.4))
    return F.relu(shares[0] - shares[1] - allowed).mean()


def _windows(x: Tensor, window: int) -> Tensor:
    """Luma of half-overlapping windows, (B, windows, pixels)."""
    luma = x.mean(1, keepdim=True)
    return F.unfold(luma, window, stride=window // 2).transpose(1, 2)


def _power(x: Tensor, window: int) -> Tensor:
    """Power spectra of their variation, tapered (Hann), (B, windows, window, window / 2 + 1)."""
    hann = torch.hann_window(window, device=x.device)
    parts = _windows(x, window)
    parts = parts - parts.mean(2, keepdim=True)
    parts = parts.reshape(*parts.shape[:2], window, window) * (hann[:, None] * hann)
    return cast(Tensor, torch.fft.rfft2(parts).abs().square())


def nuclear_features_l1(a: Tensor, b: Tensor, mpp: float = 0.25) -> Tensor:
    """Difference of the grey levels inside each nucleus of the reference, L1, over 255.

    Mean, standard deviation, skewness and kurtosis, which the paper compares nucleus by nucleus
    (`wsisr.evaluation.texture`), and the root mean square step between neighbours. They are what a
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

    The nuclei of both that `wsisr.evaluation.nuclei.agreement` leaves without a match, found by the
    reference's threshold as `nuclei_precision` and `nuclei_recall` find them: in an invented one,
    the haematoxylin density by which the image exceeds the reference; in a lost one, by which it
    falls short. Means over each nucleus, their sum over the number of nuclei in the reference.
    Nuclei are sought in the image as it is, with no gradient; the densities, blurred as for the
    search, have one. `mpp` in um/px.

    Raises:
        UsageError: OpenCV or numba is missing; see `nuclear_segmenter`.
    """
    segmenter = nuclear_segmenter()
    from wsisr.evaluation.nuclei import agreement

    images, references = (_levels(batch) for batch in (a, b))
    invented, lost = np.zeros((2, *images.shape[:3]), np.float32)
    count = 0
    for n, (image, reference) in enumerate(zip(images, references, strict=True)):
        nuclei = segmenter.against(reference, mpp)
        found = nuclei.find(image)
        unmatched = agreement(found, nuclei.labels)
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
    """Optical density of haematoxylin, as `wsisr.evaluation.stain`, blurred, (B, H, W)."""
    from wsisr.evaluation.stain import RGB_FROM_HED

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


class PatchDiscriminator(nn.Module):
    """Judges overlapping patches of about 34 px (Isola et al. 2017), spectrally normalised.

    Args:
        width: channels of the first layer.
        channels: of the input; 6 where the image comes with its condition.
    """

    def __init__(self, width: int = 32, channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for out, stride in ((width, 2), (2 * width, 2), (4 * width, 1)):
            conv = nn.Conv2d(channels, out, 4 if stride == 2 else 3, stride, 1)
            layers += [nn.utils.parametrizations.spectral_norm(conv), nn.LeakyReLU(0.2)]
            channels = out
        layers.append(nn.Conv2d(channels, 1, 3, 1, 1))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) in [-1, 1] -> (B, 1, H / 4, W / 4) scores."""
        return cast(Tensor, self.layers(x))

    def features(self, x: Tensor) -> list[Tensor]:
        """What each layer makes of the input; the last are the scores."""
        found = []
        for layer in self.layers:
            x = layer(x)
            if not isinstance(layer, nn.LeakyReLU):
                found.append(x)
        return found


class ProjectedDiscriminator(nn.Module):
    """Judges the features of a network that was trained on photographs (Sauer et al. 2021).

    A small head, spectrally normalised, on each of the three finer levels of ST-LPIPS's frozen
    network. What a `PatchDiscriminator` has to learn to see first, these features show from the
    start, so it can be heard after 150 iterations. Beside the candidate's features it sees those of
    what that was made from, so that detail must also fit; of a batch it looks at the images that
    `perceptual_distance` looks at.

    Args:
        width: channels of the heads.
    """

    LEVELS = 3
    GAIN = 8.0
    """Of the features, whose root mean squares on H&E are 0.36, 0.28 and 0.06."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.spectral_norm
        self.heads = nn.ModuleList(
            nn.Sequential(
                norm(nn.Conv2d(2 * channels, width, 3, 1, 1)),
                nn.LeakyReLU(0.2),
                norm(nn.Conv2d(width, width, 3, 1, 1)),
                nn.LeakyReLU(0.2),
                nn.Conv2d(width, 1, 1),
            )
            for channels in ST_LPIPS_CHANNELS[: self.LEVELS]
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, 6, H, W) in [-1, 1], see `beside` -> (B / 2, 3, h, w) scores, h about H / 4.

        Raises:
            ModelError: the network's weights are missing; says how to get them.
        """
        pairs = (x[::PERCEPTUAL_EVERY] + 1) / 2
        own, condition = (
            st_lpips_levels(images, _perceptual_state(x.device), self.LEVELS)
            for images in (pairs[:, :3], pairs[:, 3:])
        )
        scores = [
            head(self.GAIN * torch.cat(both, 1))
            for head, *both in zip(self.heads, own, condition, strict=True)
        ]
        size = scores[1].shape[2:]
        return torch.cat([F.adaptive_avg_pool2d(each, size) for each in scores], 1)

    def features(self, x: Tensor) -> list[Tensor]:
        """The scores alone: the frozen features are `perceptual_distance`'s to compare."""
        return [self(x)]


def feature_l1(own: list[Tensor], reference: list[Tensor]) -> Tensor:
    """Mean absolute difference of a discriminator's features without scores (Wang et al. 2018)."""
    pairs = list(zip(own[:-1], reference[:-1], strict=True))
    return torch.stack([(a - b.detach()).abs().mean() for a, b in pairs]).mean()


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of the discriminator's scores."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def hinge_generator(fake: Tensor) -> Tensor:
    """Hinge loss of the generator."""
    return -fake.mean()


def statistics_l1(a: Tensor, b: Tensor) -> Tensor:
    """Difference of natural-scene statistics of luma, crop by crop, at two scales, L1.

    Luma less its local mean, over its local deviation, and the products of neighbours in four
    directions (Ruderman 1994; Mittal et al. 2013, the features of NIQE): mean magnitude and root
    mean square, of the products both sides apart. They say how fine detail stands against coarser
    one and how sparse it is, about which a spectrum says nothing. The statistics wanted are the
    scan's, not those of photographs.
    """
    total = a.new_zeros(())
    for level in (1, 2):
        own, reference = (_statistics(F.avg_pool2d(x.mean(1, keepdim=True), level)) for x in (a, b))
        total = total + (own - reference).abs().mean()
    return total / 2


def shapes_l1(a: Tensor, b: Tensor) -> Tensor:
    """Difference of how sparse fine detail is, crop by crop, at two scales, L1.

    Mean magnitude over root mean square of what `statistics_l1` looks at: what the shape of a
    generalised Gaussian is read from, and at most 1. Few strong steps among many weak ones make it
    small, the same contrast everywhere large. In `statistics_l1` such a change shows in the second
    digit of two features out of eighteen, where those that tell less weigh as much.
    """
    total = a.new_zeros(())
    for level in (1, 2):
        own, reference = (_shapes(F.avg_pool2d(x.mean(1, keepdim=True), level)) for x in (a, b))
        total = total + (own - reference).abs().mean()
    return total / 2


def _statistics(luma: Tensor) -> Tensor:
    """(B, 1, H, W) in [0, 1] -> (B, features)."""
    x, *products = _normalized(luma)
    found = [x.abs().mean((1, 2, 3)), x.square().mean((1, 2, 3)).sqrt()]
    for product in products:
        for half in (product.clamp_min(0), product.clamp_max(0)):
            found += [half.mean((1, 2, 3)), (half.square().mean((1, 2, 3)) + 1e-6).sqrt()]
    return torch.stack(found, 1)


def _shapes(luma: Tensor) -> Tensor:
    """(B, 1, H, W) in [0, 1] -> (B, 5)."""
    found = []
    for x in _normalized(luma):
        found.append(x.abs().mean((1, 2, 3)) / (x.square().mean((1, 2, 3)) + 1e-6).sqrt())
    return torch.stack(found, 1)


def _normalized(luma: Tensor, side: int = 7) -> tuple[Tensor, ...]:
    """Luma less its local mean, over its local deviation; its products with four neighbours."""
    axis = torch.arange(side, device=luma.device) - side // 2
    bell = torch.exp(-(axis**2) / (2 * (side / 6) ** 2))
    kernel = bell[:, None] * bell / bell.sum() ** 2
    mean, square = (F.conv2d(v, kernel[None, None]) for v in (luma, luma.square()))
    deviation = ((square - mean.square()).clamp_min(0) + 1e-6).sqrt()
    edge = side // 2
    x = (luma[..., edge:-edge, edge:-edge] - mean) / (deviation + 1 / 255)
    rows, columns = x.shape[2] - 1, x.shape[3] - 1
    here, aside = x[:, :, :rows, :columns], x[:, :, :rows, 1:]
    below, across = x[:, :, 1:, :columns], x[:, :, 1:, 1:]
    return x, here * aside, here * below, here * across, aside * below


def perceptual_distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean ST-LPIPS (Ghildyal and Liu 2022) of two batches (B, 3, H, W) in [0, 1].

    Features of a network that was trained on photographs see what the statistics above let pass:
    dots and meshes of the right spectrum and contrast. A patch adversary learns to see them, too,
    but takes thousands of iterations for it. Looks at every second image, for it is dear: of two
    samples of an odd number of crops at each crop once.

    Raises:
        ModelError: the weights are missing; says how to get them (`wsisr models fetch st_lpips`).
    """
    chosen = slice(None, None, PERCEPTUAL_EVERY)
    return st_lpips_distance(a[chosen], b[chosen], _perceptual_state(a.device))


@lru_cache(maxsize=2)
def _perceptual_state(device: torch.device) -> Mapping[str, Tensor]:
    (file,) = find("st_lpips").values()
    return {name: value.to(device) for name, value in load_state(file).items()}


def psnr(a: Tensor, b: Tensor) -> float:
    """PSNR in dB of two images in [0, 1]."""
    return float(-10 * torch.log10(F.mse_loss(a, b)))


@dataclass(frozen=True)
class ImageLoss:
    """Weights of what makes an image the real scan's equal.

    Attributes:
        pixel: of L1.
        coarse: of `coarse_l1`.
        contrast: of `contrast_l1`.
        deviation: of `deviation_l1`.
        spectrum: of `spectrum_l1`.
        statistics: of `statistics_l1`.
        shapes: of `shapes_l1`.
        nuclear: of `nuclear_features_l1`.
        unmatched: of `unmatched_nuclei`.
        perceptual: of `perceptual_distance`; needs its weights, see there.
        adversarial: of the hinge loss of a discriminator, the rival.
        features: of `feature_l1` on that discriminator; for the patch rival.
        grid: of `grid_penalty`.
        mesh: of `mesh_penalty`.
        adversarial_from: iteration at which `adversarial` and `features` set in.
        rival: `patch` (`PatchDiscriminator`) or `projected` (`ProjectedDiscriminator`).
        rival_width: channels of its first layers.
        at: {scale: other weights there}. How much of the detail a scan has can be placed differs
            with the scale, and with it what a term costs in the others.
    """

    pixel: float = 1.0
    coarse: float = 0.0
    contrast: float = 1.0
    deviation: float = 0.0
    spectrum: float = 0.0
    statistics: float = 0.0
    shapes: float = 0.0
    nuclear: float = 0.0
    unmatched: float = 0.0
    perceptual: float = 0.0
    adversarial: float = 0.02
    features: float = 0.2
    grid: float = 0.03
    mesh: float = 0.0
    adversarial_from: int = 0
    rival: str = "patch"
    rival_width: int = 32
    at: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rival not in ("patch", "projected"):
            raise UsageError(f"loss.rival {self.rival!r}: must be patch or projected")
        if self.rival == "projected" and self.features:
            raise UsageError("loss.features: not with the projected rival, see loss.perceptual")
        for scale in self.at:  # an unknown name shows before the training starts
            self.at_scale(scale)

    def at_scale(self, scale: int) -> ImageLoss:
        """The loss with the weights of a scale."""
        return replace(self, **self.at.get(scale, {}), at={})

    def make_rival(self) -> PatchDiscriminator | ProjectedDiscriminator:
        """A new rival, who sees what `beside` gives."""
        if self.rival == "projected":
            return ProjectedDiscriminator(self.rival_width)
        return PatchDiscriminator(self.rival_width, channels=6)

    def asks_for(self, *terms: str) -> bool:
        """Whether one of these terms has a weight at any scale."""
        losses = (self, *(self.at_scale(scale) for scale in self.at))
        return any(getattr(loss, term) for loss in losses for term in terms)

    def __call__(
        self, image: Tensor, hr: Tensor, condition: Tensor, rival: nn.Module, iteration: int
    ) -> dict[str, Tensor]:
        """Losses, `loss` their weighted sum; all images (B, 3, H, W) in [0, 1].

        `condition` is what the rival sees beside the candidate.
        """
        none = image.new_zeros(())
        losses = {
            "l1": (image - hr).abs().mean(),
            "coarse": coarse_l1(image, hr),
            "contrast": contrast_l1(image, hr),
            "deviation": deviation_l1(image, hr),
            "spectrum": spectrum_l1(image, hr),
            # the dear ones to compute, hence only where they count
            "statistics": statistics_l1(image, hr) if self.statistics else none,
            "shapes": shapes_l1(image, hr) if self.shapes else none,
            "nuclear": nuclear_features_l1(image, hr) if self.nuclear else none,
            "unmatched": unmatched_nuclei(image, hr) if self.unmatched else none,
            "mesh": mesh_penalty(image, hr) if self.mesh else none,
            "perceptual": perceptual_distance(image, hr) if self.perceptual else none,
        }
        total = self.pixel * losses["l1"] + self.coarse * losses["coarse"]
        total = total + self.contrast * losses["contrast"] + self.deviation * losses["deviation"]
        total = total + self.spectrum * losses["spectrum"]
        total = total + self.statistics * losses["statistics"] + self.shapes * losses["shapes"]
        total = total + self.nuclear * losses["nuclear"] + self.mesh * losses["mesh"]
        total = total + self.unmatched * losses["unmatched"]
        total = total + self.perceptual * losses["perceptual"]
        # the log has the same columns from the first line to the last
        losses["adversarial"] = losses["features"] = none
        if (self.adversarial or self.features) and iteration >= self.adversarial_from:
            discriminator = cast(PatchDiscriminator, getattr(rival, "module", rival))
            rival.requires_grad_(False)
            own = discriminator.features(beside(image, condition))
            losses["adversarial"] = hinge_generator(own[-1])
            if self.features:
                with torch.no_grad():
                    reference = discriminator.features(beside(hr, condition))
                losses["features"] = feature_l1(own, reference)
            rival.requires_grad_(True)
            total = total + self.adversarial * losses["adversarial"]
            total = total + self.features * losses["features"]
        losses["grid"] = grid_penalty(image, hr)
        return {"loss": total + self.grid * losses["grid"], **losses}


class Contest:
    """An `ImageLoss` with its rival, who learns from the images that were last compared.

    Raises:
        ModelError: the weights of ST-LPIPS's network are wanted and missing.
        UsageError: `nuclear` or `unmatched` is wanted, and OpenCV or numba is missing.
    """

    def __init__(self, loss: ImageLoss) -> None:
        self.loss = loss
        self.contested = loss.asks_for("adversarial", "features")
        if loss.asks_for("perceptual") or (self.contested and loss.rival == "projected"):
            find("st_lpips")  # what is missing shows before the training
        if loss.asks_for("nuclear", "unmatched"):
            nuclear_segmenter()
        self.rival = channels_last(loss.make_rival())
        self._real = self._fake = torch.empty(0)

    def losses(
        self, image: Tensor, hr: Tensor, condition: Tensor, scale: int, iteration: int
    ) -> dict[str, Tensor]:
        """See `ImageLoss`; computed in full precision."""
        self._real, self._fake = beside(hr, condition), beside(image.detach(), condition)
        with torch.autocast(image.device.type, enabled=False):
            return self.loss.at_scale(scale)(image, hr, condition, self.rival, iteration)

    def rival_loss(self, rival: nn.Module, iteration: int) -> Tensor:
        """The rival's own loss; a constant where its word is not heard, until shortly before."""
        if not self.contested or iteration < self.loss.adversarial_from - AHEAD:
            return torch.zeros(())
        with torch.autocast(self._real.device.type, enabled=False):
            return hinge_discriminator(rival(self._real), rival(self._fake))


def beside(image: Tensor, condition: Tensor) -> Tensor:
    """What a conditional discriminator sees: (B, 6, H, W) in [-1, 1]."""
    return torch.cat((image, condition), 1) * 2 - 1
