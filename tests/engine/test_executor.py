from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from wsisr.engine.runner import Runner, default_batch, is_out_of_memory
from wsisr.errors import ModelError
from wsisr.models import WindowInput
from wsisr.models.consistency import Sampling

CPU, FAKE_GPU = torch.device("cpu"), torch.device("meta")
MESSAGES = (
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
)


def windows(count: int) -> list[WindowInput]:
    maps = Sampling(torch.eye(4), torch.eye(4))
    return [WindowInput(i, 0, torch.full((3, 4, 4), i / 255), maps, maps) for i in range(count)]


class Memory:
    """A model that fails with more windows at once than fit."""

    def __init__(self, fits: int, error: BaseException) -> None:
        self.fits, self.error = fits, error
        self.shapes: list[int] = []

    def __call__(self, given: Sequence[WindowInput]) -> tuple[Tensor, None]:
        if len(given) > self.fits:
            raise self.error
        self.shapes.append(len(given))
        return torch.stack([window.lr for window in given]), None


@pytest.mark.parametrize("error", MESSAGES)
def test_too_large_a_batch_is_halved_and_said(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    model = Memory(2, error)
    with caplog.at_level(logging.WARNING), Runner(model, FAKE_GPU, 8) as runner:
        images = runner(windows(7))
        assert runner.batch == 2
    assert [round(float(image.pixels[0, 0, 0])) for image in images] == list(range(7))
    # the shape stays fixed: the last batch is filled up
    assert set(model.shapes) == {2}
    assert "a batch of 2" in caplog.text


def test_a_cpu_computes_each_window_alone_whatever_the_batch() -> None:
    model = Memory(1, MemoryError())
    with Runner(model, CPU, 8) as runner:
        assert len(runner(windows(5))) == 5
        assert runner.batch == 8
    assert model.shapes == [1] * 5


def test_memory_that_runs_out_beside_others_is_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures = iter([MemoryError(), None, None])

    def model(given: Sequence[WindowInput]) -> tuple[Tensor, None]:
        if (error := next(failures, None)) is not None:
            raise error
        return torch.stack([window.lr for window in given]), None

    with Runner(model, CPU, 2) as runner:
        images = runner(windows(2))
        assert runner.batch == 1
    assert [round(float(image.pixels[0, 0, 0])) for image in images] == [0, 1]
    assert "pixels stay the same" in caplog.text


def test_one_window_too_much_is_an_error_with_a_remedy() -> None:
    with (
        Runner(Memory(0, MemoryError()), CPU, 4) as runner,
        pytest.raises(ModelError, match="window"),
    ):
        runner(windows(1))


def test_other_errors_are_not_taken_for_it() -> None:
    with (
        Runner(Memory(0, RuntimeError("shapes differ")), CPU, 4) as runner,
        pytest.raises(RuntimeError, match="shapes differ"),
    ):
        runner(windows(2))
    assert not is_out_of_memory(ValueError("x"))


def test_threads_of_the_model_compute_alone() -> None:
    seen: list[int] = []

    def model(given: Sequence[WindowInput]) -> tuple[Tensor, None]:
        seen.append(torch.get_num_threads())
        return torch.stack([window.lr for window in given]), None

    with Runner(model, CPU, 4) as runner:
        runner(windows(4))
    assert seen == [1] * 4


def test_batch_on_a_cpu_is_one_window_a_thread() -> None:
    assert default_batch(CPU) == min(torch.get_num_threads(), 8)


def test_a_map_comes_in_grey_levels() -> None:
    def model(given: Sequence[WindowInput]) -> tuple[Tensor, Tensor]:
        images = torch.stack([window.lr for window in given])
        return images, torch.full_like(images[:, :1], 0.1)

    with Runner(model, CPU, 1) as runner:
        (image,) = runner(windows(1))
    assert image.deviation is not None
    np.testing.assert_allclose(image.deviation, 25.5, rtol=1e-6)
    assert image.deviation.shape == (4, 4, 1)
