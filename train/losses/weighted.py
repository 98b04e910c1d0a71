"""All losses of an image together, each with a weight, and the discriminator that some need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, field, replace
from typing import Any, Literal, cast

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from train.config import STRICT_KEYS, Count, CountOrZero, Number, build
from train.errors import require
from train.losses.adversary import (
    PatchDiscriminator,
    ProjectedDiscriminator,
    feature_l1,
    hinge_discriminator,
    hinge_generator,
    with_condition,
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
from wsisr.evaluation.weights import find_weights
from wsisr.models.networks import channels_last

DISCRIMINATOR_LEAD = 50
"""Iterations a discriminator learns before it is heard, so that it does not begin with noise."""

Term = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, config=STRICT_KEYS)
class ImageLoss:
    """Weights of what makes an image the real scan's equal.

    Attributes:
        pixel: weight of L1.
        coarse: weight of `coarse_l1`.
        contrast: weight of `contrast_l1`.
        deviation: weight of `deviation_l1`.
        spectrum: weight of `spectrum_l1`.
        statistics: weight of `statistics_l1`.
        shapes: weight of `shapes_l1`.
        nuclear: weight of `nuclear_features_l1`.
        unmatched: weight of `unmatched_nuclei`.
        perceptual: weight of `perceptual_distance`, which needs weights of its own, see there.
        adversarial: weight of the hinge loss of the discriminator.
        features: weight of `feature_l1` on that discriminator; for the patch discriminator only.
        grid: weight of `grid_penalty`.
        mesh: weight of `mesh_penalty`.
        adversarial_from: iteration at which `adversarial` and `features` set in.
        discriminator: `patch` (`PatchDiscriminator`) or `projected` (`ProjectedDiscriminator`).
        discriminator_width: channels of its first layers.
        weights_by_scale: {scale: other weights there}. How much of the detail a scan has can be
            placed differs with the scale, and with it what a term costs in the others.
    """

    pixel: Number = 1.0
    coarse: Number = 0.0
    contrast: Number = 1.0
    deviation: Number = 0.0
    spectrum: Number = 0.0
    statistics: Number = 0.0
    shapes: Number = 0.0
    nuclear: Number = 0.0
    unmatched: Number = 0.0
    perceptual: Number = 0.0
    adversarial: Number = 0.02
    features: Number = 0.2
    grid: Number = 0.03
    mesh: Number = 0.0
    adversarial_from: CountOrZero = 0
    discriminator: Literal["patch", "projected"] = "patch"
    discriminator_width: Count = 32
    weights_by_scale: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fits = self.discriminator != "projected" or not self.features
        require(
            fits,
            "loss.features: not with the projected discriminator; its features are compared by "
            "loss.perceptual",
        )
        for scale in self.weights_by_scale:  # an unknown name shows before the training starts
            self.at_scale(scale)

    def at_scale(self, scale: int) -> ImageLoss:
        """Gives the loss with the weights of a scale.

        Raises:
            UsageError: a weight of that scale is unknown or out of its range.
        """
        own = self.weights_by_scale.get(scale)
        if own is None:
            return replace(self, weights_by_scale={})
        values = {**asdict(self), **own, "weights_by_scale": {}}
        return build(type(self), values, f"loss.weights_by_scale.{scale}")

    def make_discriminator(self) -> PatchDiscriminator | ProjectedDiscriminator:
        """Makes a new discriminator, which sees what `with_condition` gives."""
        if self.discriminator == "projected":
            return ProjectedDiscriminator(self.discriminator_width)
        return PatchDiscriminator(self.discriminator_width, channels=6)

    def has_weight(self, *terms: str) -> bool:
        """Tells whether one of these terms has a weight at any scale."""
        losses = (self, *(self.at_scale(scale) for scale in self.weights_by_scale))
        return any(getattr(loss, term) for loss in losses for term in terms)

    def __call__(
        self, image: Tensor, hr: Tensor, condition: Tensor, discriminator: nn.Module, iteration: int
    ) -> dict[str, Tensor]:
        """Compares images with the real scan.

        Args:
            image: (B, 3, H, W) in [0, 1].
            hr: the real scan, of the same shape.
            condition: what the discriminator sees beside the image, of the same shape.
            discriminator: that of `make_discriminator`.
            iteration: counted from 0.

        Returns:
            Losses by name, `loss` their weighted sum.
        """
        none = image.new_zeros(())

        def dear(weight: float, term: Term) -> Tensor:
            """Computes a costly term only where it counts."""
            return term(image, hr) if weight else none

        losses = {
            "l1": (image - hr).abs().mean(),
            "coarse": coarse_l1(image, hr),
            "contrast": contrast_l1(image, hr),
            "deviation": deviation_l1(image, hr),
            "spectrum": spectrum_l1(image, hr),
            "statistics": dear(self.statistics, statistics_l1),
            "shapes": dear(self.shapes, shapes_l1),
            "nuclear": dear(self.nuclear, nuclear_features_l1),
            "unmatched": dear(self.unmatched, unmatched_nuclei),
            "mesh": dear(self.mesh, mesh_penalty),
            "perceptual": dear(self.perceptual, perceptual_distance),
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
            losses |= self._adversarial(image, hr, condition, discriminator)
            total = total + self.adversarial * losses["adversarial"]
            total = total + self.features * losses["features"]
        losses["grid"] = grid_penalty(image, hr)
        return {"loss": total + self.grid * losses["grid"], **losses}

    def _adversarial(
        self, image: Tensor, hr: Tensor, condition: Tensor, discriminator: nn.Module
    ) -> dict[str, Tensor]:
        """Asks the discriminator, whose parameters get no gradient."""
        bare = cast(PatchDiscriminator, getattr(discriminator, "module", discriminator))
        discriminator.requires_grad_(False)
        own = bare.features(with_condition(image, condition))
        losses = {"adversarial": hinge_generator(own[-1])}
        if self.features:
            with torch.no_grad():
                reference = bare.features(with_condition(hr, condition))
            losses["features"] = feature_l1(own, reference)
        discriminator.requires_grad_(True)
        return losses


class AdversarialLoss:
    """An `ImageLoss` with its discriminator, which learns from the images last compared.

    Attributes:
        loss: the weights.
        discriminator: what is trained beside the generator.

    Raises:
        ModelError: the weights of ST-LPIPS's network are wanted and missing.
        UsageError: `nuclear` or `unmatched` is wanted, and OpenCV or numba is missing.
    """

    def __init__(self, loss: ImageLoss) -> None:
        self.loss = loss
        self._is_heard = loss.has_weight("adversarial", "features")
        projected = self._is_heard and loss.discriminator == "projected"
        if loss.has_weight("perceptual") or projected:
            find_weights("st_lpips")  # what is missing shows before the training
        if loss.has_weight("nuclear", "unmatched"):
            nuclear_segmenter()
        self.discriminator = channels_last(loss.make_discriminator())
        self._real = self._fake = torch.empty(0)

    def losses(
        self, image: Tensor, hr: Tensor, condition: Tensor, scale: int, iteration: int
    ) -> dict[str, Tensor]:
        """Compares images with the real scan in full precision; see `ImageLoss`."""
        self._real = with_condition(hr, condition)
        self._fake = with_condition(image.detach(), condition)
        with torch.autocast(image.device.type, enabled=False):
            loss = self.loss.at_scale(scale)
            return loss(image, hr, condition, self.discriminator, iteration)

    def discriminator_loss(self, discriminator: nn.Module, iteration: int) -> Tensor:
        """Gives the discriminator's own loss; a constant until shortly before it is heard."""
        if not self._is_heard or iteration < self.loss.adversarial_from - DISCRIMINATOR_LEAD:
            return torch.zeros(())
        with torch.autocast(self._real.device.type, enabled=False):
            return hinge_discriminator(discriminator(self._real), discriminator(self._fake))
