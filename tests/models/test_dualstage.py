from __future__ import annotations

from pathlib import Path

import pytest
import torch

from wsisr.models import WindowInput, load_upscaler
from wsisr.models.consistency import Sampling, resize
from wsisr.plan import make_plan

TILE, SCALE, SIZE = 64, 4, 40


def window(seed: int = 0) -> WindowInput:
    """A window amid a slide, with low-resolution pixels of middling contrast."""
    plan = make_plan(SIZE, SIZE, SCALE, tile=TILE, overlap=16)
    up, down = (torch.from_numpy(each) for each in plan.sampling(48, plan.columns))
    lr = torch.rand(3, up.shape[1], up.shape[1], generator=torch.Generator().manual_seed(seed))
    axis = Sampling(up, down)
    return WindowInput(48, 48, 0.4 + 0.3 * lr, axis, axis)


def disagreement(image: torch.Tensor, given: WindowInput) -> float:
    """Root mean square of the reduced image against the input, grey levels."""
    whole = given.rows.down.any(1)
    reduced = resize(image, given.rows.down, given.columns.down)
    error = (reduced - given.lr)[..., whole, :][..., whole]
    return 255 * float(error.square().mean().sqrt())


@pytest.mark.parametrize("fidelity", [0.0, 1.0])
def test_half_precision_agrees_with_the_input_as_well(model_folder: Path, fidelity: float) -> None:
    """Networks may be coarse; the arithmetic of consistency and colour is single precision."""
    found = {}
    for precision in ("fp32", "bf16"):
        settings = {"precision": precision, "fidelity": fidelity}
        model = load_upscaler(str(model_folder), settings=settings)
        given = window()
        found[precision] = disagreement(model([given])[0], given)
    assert found["bf16"] < 1.2 * found["fp32"] + 0.01
