"""TODO-DOC"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from train.losses.adversary import (
    PatchDiscriminator,
    ProjectedDiscriminator,
    beside,
    feature_l1,
    hinge_discriminator,
    hinge_generator,
)
from train.losses.image import (
    coarse_l1,
    contrast_l1,
    deviation_l1,
    grid_penalty,
    mesh_penalty,
    shapes_l1,
    spectrum_l1,
    statistics_l1,
)
from train.losses.nuclear import nuclear_features_l1, nuclear_segmenter, unmatched_nuclei
from train.losses.perceptual import perceptual_distance
from wsisr.errors import UsageError
from wsisr.evaluation.weights import find_weights
from wsisr.models.networks import channels_last

AHEAD = 50
"""Iterations a rival learns before it is heard, so that its first word is not noise."""


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
            find_weights("st_lpips")  # what is missing shows before the training
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
