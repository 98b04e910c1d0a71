"""TODO-DOC"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from wsisr.errors import UsageError
from wsisr.models.colour import COLOR_FIXES
from wsisr.models.sampling import SAMPLERS

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def usual_precision(device: torch.device) -> str:
    """bf16 where it is fast: on GPUs, and on CPUs with instructions for it; else fp32."""
    if device.type == "cuda":
        return "bf16"
    # torch before 2.10 cannot tell
    has: Mapping[str, Any] = (
        getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
    )
    return "bf16" if has.get("avx512_bf16") or has.get("amx_bf16") else "fp32"


@dataclass(frozen=True)
class Settings:
    """How a model is run.

    Attributes:
        sampler: a name in `SAMPLERS`.
        steps: denoising steps.
        start_timestep: noise level at which sampling starts, 0..999.
        start_from: `condition` (the restored image's latent, noised) or `noise` (pure).
        strength: 0..1; if given, sampling starts from the restored image's latent noised to that
            share of the timesteps, whatever the two fields above say.
        fidelity: 0 = all generated detail, 1 = stage 1 only.
        residual: add to the restored image what sampling has changed, the decoded result less the
            decoded latent of the restored image, and the detail that stage 1 knows of, instead of
            taking the decoded result for it. What the autoencoder cannot reconstruct is then not
            lost; for students trained so. Without, stage 2 starts from the image with its detail.
        color_fix: `wavelet`, `adain` or `none`.
        consistency: `soft` (the result, reduced again, agrees with the input), `exact` (the same
            here; the finished bytes are fitted afterwards, see `wsisr.engine.exact`) or `off`.
        seed: of the noise field, 0..2^64 - 1.
        precision: `fp32`, `bf16` or `fp16`, of the networks' arithmetic.
        compile: run the networks' blocks through torch.compile; rounds otherwise in the last bits.
        joint: (side, overlap) in px of the windows whose noise predictions are averaged at every
            step where a model is given larger blocks; None predicts a block in one piece.
    """

    sampler: str = "spaced-ddpm"
    steps: int = 50
    start_timestep: int = 999
    start_from: str = "noise"
    strength: float | None = None
    fidelity: float = 0.0
    residual: bool = False
    color_fix: str = "wavelet"
    consistency: str = "soft"
    seed: int = 0
    precision: str = "fp32"
    compile: bool = False
    joint: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        choices = (
            ("--sampler", self.sampler, tuple(SAMPLERS)),
            ("--color-fix", self.color_fix, (*COLOR_FIXES, "none")),
            ("--consistency", self.consistency, ("soft", "exact", "off")),
            ("--precision", self.precision, tuple(PRECISIONS)),
            ("start_from", self.start_from, ("condition", "noise")),
        )
        for option, value, allowed in choices:
            if value not in allowed:
                raise UsageError(f"{option} {value}: must be one of {', '.join(allowed)}")
        if not 0 <= self.fidelity <= 1:
            raise UsageError(f"--fidelity {self.fidelity:g}: must lie between 0 and 1")
        if self.strength is not None and not 0 <= self.strength <= 1:
            raise UsageError(f"--strength {self.strength:g}: must lie between 0 and 1")
        if not 1 <= self.steps <= 1000:
            raise UsageError(f"--steps {self.steps}: must lie between 1 and 1000")
        if not 0 <= self.start_timestep <= 999:
            raise UsageError(f"start_timestep {self.start_timestep}: must lie between 0 and 999")
        if not 0 <= self.seed < 2**64:
            raise UsageError(f"--seed {self.seed}: must lie between 0 and 2^64 - 1")

    @property
    def first_timestep(self) -> int:
        """Where sampling starts."""
        return self.start_timestep if self.strength is None else round(self.strength * 999)

    @property
    def starts_from_condition(self) -> bool:
        """Whether it starts from the restored image's latent and not from pure noise."""
        return self.strength is not None or self.start_from == "condition"
