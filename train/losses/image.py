"""Image losses, and the discriminators that some of them need."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    pass


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


def psnr(a: Tensor, b: Tensor) -> float:
    """PSNR in dB of two images in [0, 1]."""
    return float(-10 * torch.log10(F.mse_loss(a, b)))
