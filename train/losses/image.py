"""Losses of an image against the real scan that need no network.

Images are (B, C, H, W) in [0, 1], of any device; each loss is a scalar with a gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from train.losses.local import luma, normalized_luma, power_spectra, window_means, windows


def gradient_l1(a: Tensor, b: Tensor) -> Tensor:
    """Gives the mean absolute difference of the finite differences of two batches."""
    d = a - b
    rows = (d[:, :, 1:] - d[:, :, :-1]).abs().mean()
    columns = (d[:, :, :, 1:] - d[:, :, :, :-1]).abs().mean()
    return rows + columns


def texture_l1(a: Tensor, b: Tensor, window: int = 8) -> Tensor:
    """Compares local contrast by L1: the standard deviation of fine luma in windows.

    A plain L1 loss answers detail it cannot place with grey; this term asks for the right amount
    of it without saying where, which is what texture means to an eye.
    """
    return (_local_deviation(a, window) - _local_deviation(b, window)).abs().mean()


def _local_deviation(x: Tensor, window: int) -> Tensor:
    """Gives the deviation of luma from its mean over 3x3 px, in windows."""
    grey = luma(x)
    fine = grey - F.avg_pool2d(grey, 3, 1, 1, count_include_pad=False)
    return (window_means(fine.square(), window) + 1e-6).sqrt()


def contrast_l1(a: Tensor, b: Tensor, window: int = 16) -> Tensor:
    """Compares local contrast by L1: the root mean square step to the next pixel, in windows.

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
    """Gives the root mean square step of luma along a dimension, in windows."""
    grey = luma(x)
    size = x.shape[dim] - step
    squares = (grey.narrow(dim, step, size) - grey.narrow(dim, 0, size)).square()
    return (window_means(squares, window) + 1e-6).sqrt()


def deviation_l1(a: Tensor, b: Tensor, window: int = 16) -> Tensor:
    """Compares contrast as a whole by L1: the standard deviation of luma in windows.

    Windows of about half a nucleus hold its outline, its membrane and its chromatin. Where the
    input does not say where these lie, the losses pixel by pixel take their contrast away and
    leave nuclei paler and flatter than the scan's; `contrast_l1` sees the finest steps only.
    """
    return (_deviations(a, window) - _deviations(b, window)).abs().mean()


def _deviations(x: Tensor, window: int) -> Tensor:
    """Gives the standard deviation of luma in windows."""
    grey = luma(x)
    mean, square = (window_means(v, window) for v in (grey, grey.square()))
    return ((square - mean.square()).clamp_min(0) + 1e-5).sqrt()


def grid_penalty(a: Tensor, b: Tensor, period: int = 16) -> Tensor:
    """Tells how much more than the reference's, detail depends on its place in a regular grid.

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
    """Gives the mean absolute step at each phase of a period, relative to that of all."""
    steps = luma(x).diff(dim=dim).abs().transpose(dim, 3).mean((0, 1, 2))
    phases = steps[: len(steps) // period * period].view(-1, period).mean(0)
    return phases / phases.mean().detach().clamp_min(1e-4)


def coarse_l1(a: Tensor, b: Tensor) -> Tensor:
    """Compares the means over 2x2 and over 4x4 pixels by L1: outlines, whatever the grain.

    Where nuclei are and how large they look is decided there; plain L1 asks for it too, but pays
    for every grain that is not where the scan has it, and so takes the grain away.
    """
    total, d = a.new_zeros(()), a - b
    for _ in range(2):
        d = F.avg_pool2d(d, 2)
        total = total + d.abs().mean()
    return total / 2


def spread_l1(images: Tensor, samples: int) -> Tensor:
    """Gives half the mean absolute difference between samples of the same crops.

    That is what the energy score (Gneiting and Raftery 2007) takes from their mean absolute error:
    an L1 that lets samples differ by as much as they are wrong, and so where they are wrong. Its
    full weight costs a single sample several dB; a part of it keeps a distilled sampler from making
    the same image of all noise.

    Args:
        images: sample i of crop c is `images[i * crops + c]`.
        samples: how many there are of each crop.
    """
    stacked = images.reshape(samples, -1, *images.shape[1:])
    return (stacked - stacked.roll(1, 0)).abs().mean() / 2


def spectrum_l1(a: Tensor, b: Tensor, window: int = 32) -> Tensor:
    """Compares the log power spectra of luma, averaged over batch and windows, by L1.

    A spectrum says how much there is of each frequency and direction, not where: hatching, grids of
    any phase and missing detail show, a grain that is elsewhere does not. Windows (Hann, half
    overlapping) are scaled by their own contrast in `b` first, so that flat stroma counts as much
    as chromatin; a few hundred of them in a batch hold the noise of the estimate at some per cent.
    """
    powers = [power_spectra(image, window) for image in (a, b)]
    scale = 1 / (windows(b, window).var(2) + 1e-5)[..., None, None]
    own, reference = (((power * scale).mean((0, 1)) + 1e-4).log() for power in powers)
    return (own - reference).abs().mean()


def mesh_penalty(a: Tensor, b: Tensor, period: int = 4, allowed: float = 0.1) -> Tensor:
    """Tells how much more of a window's fine power than of the reference's lies in a mesh.

    The mesh is rows and columns of one period, by the power spectrum of 32 px windows, as a share
    of all power finer than 6 px. `grid_penalty` looks at a batch as a whole, where a mesh on one
    pale place in a thousand does not count.

    Args:
        a: the images.
        b: the reference.
        period: of the mesh, px.
        allowed: by so much a share may exceed the reference's.
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
        power = power_spectra(image, window)
        # the constant keeps the noise of bare glass out of it
        shares.append((power * mesh).sum((2, 3)) / ((power * fine).sum((2, 3)) + 0.4))
    return F.relu(shares[0] - shares[1] - allowed).mean()


def statistics_l1(a: Tensor, b: Tensor) -> Tensor:
    """Compares natural-scene statistics of luma, crop by crop, at two scales, by L1.

    They are the mean magnitude and the root mean square of luma less its local mean, over its local
    deviation, and of the products of neighbours in four directions, whose two signs are taken
    apart (Ruderman 1994; Mittal et al. 2013, the features of NIQE). They say how fine detail stands
    against coarser one and how sparse it is, about which a spectrum says nothing. The statistics
    wanted are the scan's, not those of photographs.
    """
    return _at_two_scales(_statistics, a, b)


def shapes_l1(a: Tensor, b: Tensor) -> Tensor:
    """Compares how sparse fine detail is, crop by crop, at two scales, by L1.

    That is the mean magnitude over the root mean square of what `statistics_l1` looks at, from
    which the shape of a generalised Gaussian is read; it is at most 1. Few strong steps among many
    weak ones make it small, the same contrast everywhere large. In `statistics_l1` such a change
    shows in the second digit of two features out of eighteen, where those that tell less weigh as
    much.
    """
    return _at_two_scales(_shapes, a, b)


def _at_two_scales(features: Callable[[Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """Compares features of luma by L1, at full and at half resolution."""
    total = a.new_zeros(())
    for level in (1, 2):
        own, reference = (features(F.avg_pool2d(luma(x), level)) for x in (a, b))
        total = total + (own - reference).abs().mean()
    return total / 2


def _statistics(grey: Tensor) -> Tensor:
    """Gives statistics (B, features) of luma (B, 1, H, W) in [0, 1]."""
    x, *products = normalized_luma(grey)
    found = [x.abs().mean((1, 2, 3)), x.square().mean((1, 2, 3)).sqrt()]
    for product in products:
        for half in (product.clamp_min(0), product.clamp_max(0)):
            found += [half.mean((1, 2, 3)), (half.square().mean((1, 2, 3)) + 1e-6).sqrt()]
    return torch.stack(found, 1)


def _shapes(grey: Tensor) -> Tensor:
    """Gives the sparseness (B, 5) of luma (B, 1, H, W) in [0, 1] and of four products."""
    found = []
    for x in normalized_luma(grey):
        found.append(x.abs().mean((1, 2, 3)) / (x.square().mean((1, 2, 3)) + 1e-6).sqrt())
    return torch.stack(found, 1)


def psnr(a: Tensor, b: Tensor) -> float:
    """Gives the PSNR in dB of two images in [0, 1]."""
    return float(-10 * torch.log10(F.mse_loss(a, b)))
