"""How a model is run: sampler, steps, start, fidelity, colours, consistency, precision."""

from __future__ import annotations

from dataclasses import dataclass

from wsisr.errors import OptionError
from wsisr.models.choices import COLOR_FIX_NAMES, CONSISTENCY_NAMES, PRECISION_NAMES
from wsisr.models.sampling import SAMPLERS

CHOICES = {
    "sampler": tuple(SAMPLERS),
    "start_from": ("condition", "noise"),
    "color_fix": COLOR_FIX_NAMES,
    "consistency": CONSISTENCY_NAMES,
    "precision": PRECISION_NAMES,
}
"""Field of `Settings` -> the values that it may have."""

RANGES: dict[str, tuple[int, int]] = {
    "steps": (1, 1000),
    "start_timestep": (0, 999),
    "strength": (0, 1),
    "fidelity": (0, 1),
    "seed": (0, 2**64 - 1),
}
"""Field of `Settings` -> its least and its largest value."""


@dataclass(frozen=True)
class Settings:
    """How a model is run.

    Attributes:
        sampler: a name in `SAMPLERS`.
        steps: denoising steps, 1..1000.
        start_timestep: noise level at which sampling starts, 0..999.
        start_from: `condition` (the restored image's latent, noised) or `noise` (pure).
        strength: 0..1; if given, sampling starts from the restored image's latent noised to that
            share of the timesteps, whatever the two fields above say.
        fidelity: 0 = all generated detail, 1 = stage 1 only.
        color_fix: `wavelet`, `adain` or `none`.
        consistency: `soft` (the result, reduced again, agrees with the input), `exact` (the same
            here; the finished bytes are fitted afterwards, see `wsisr.engine.exact`) or `off`.
        seed: of the noise field, 0..2^64 - 1.
        precision: `fp32`, `bf16` or `fp16`, of the networks' arithmetic.
        compile: run the networks' blocks through torch.compile; rounds otherwise in the last bits.
        joint: (side, overlap) in px of the windows whose noise predictions are averaged at every
            step where a model is given larger blocks; None predicts a block in one piece.

    Raises:
        OptionError: a value is none of its field's choices, or out of its range.
    """

    sampler: str = "spaced-ddpm"
    steps: int = 50
    start_timestep: int = 999
    start_from: str = "noise"
    strength: float | None = None
    fidelity: float = 0.0
    color_fix: str = "wavelet"
    consistency: str = "soft"
    seed: int = 0
    precision: str = "fp32"
    compile: bool = False
    joint: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for option, allowed in CHOICES.items():
            value = getattr(self, option)
            if value not in allowed:
                raise OptionError(option, value, f"must be one of {', '.join(allowed)}")
        for option, (least, largest) in RANGES.items():
            value = getattr(self, option)
            if value is None and option == "strength":
                continue
            if not least <= value <= largest:
                limit = "2^64 - 1" if option == "seed" else largest
                raise OptionError(option, value, f"must lie between {least} and {limit}")

    @property
    def first_timestep(self) -> int:
        """The timestep at which sampling starts."""
        return self.start_timestep if self.strength is None else round(self.strength * 999)

    @property
    def starts_from_condition(self) -> bool:
        """Whether sampling starts from the restored image's latent and not from pure noise."""
        return self.strength is not None or self.start_from == "condition"
