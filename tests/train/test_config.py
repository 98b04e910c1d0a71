"""Sections of YAML files as configs."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, replace

import pytest

from train.config import build
from train.stages.plain import PlainConfig
from wsisr.errors import UsageError


def test_values_of_yaml_are_what_fields_are_declared_to_be() -> None:
    values = {
        "batch": 2,
        "loop": {"learning_rate": "1e-4", "clip": float("inf"), "precision": False},
    }
    values |= {
        "loss": {"weights_by_scale": {"8": {"coarse": 11.0}}},
        "scales": [3],
        "scale_weights": [1],
    }
    config = build(PlainConfig, values | {"crop": 96, "init": None})
    assert config.loop.learning_rate == 1e-4
    assert config.loop.clip == float("inf")
    assert config.loop.precision == "no"
    assert config.loss.at_scale(8).coarse == 11.0
    assert config.scales == (3,)
    assert config.init == ""
    with pytest.raises(UsageError, match=r"loss\.pixel nan: must be a number"):
        build(PlainConfig, {"loss": {"pixel": float("nan")}})
    with pytest.raises(UsageError, match=r"batch 2\.5: must be a whole number"):
        build(PlainConfig, {"batch": 2.5})


def test_configs_are_frozen_comparable_and_picklable() -> None:
    config = build(PlainConfig, {"batch": 2, "loss": {"weights_by_scale": {4: {"pixel": 2}}}})
    assert pickle.loads(pickle.dumps(config)) == config
    assert config != replace(config, batch=3)
    with pytest.raises(FrozenInstanceError):
        config.batch = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"batchs": 1}, "batchs: is no key of this section; is batch meant?"),
        ({"loop": {"warm": 1}}, "loop.warm: is no key of this section; is warmup meant?"),
        ({"batch": True}, "batch True: must be a whole number"),
        ({"loop": {"tensorboard": 1}}, "loop.tensorboard 1: must be true or false"),
        ({"init": 3}, "init 3: must be text"),
        ({"loss": {"mesh": "much"}}, "loss.mesh 'much': must be a number"),
        ({"loop": {"ema": 1}}, "loop.ema 1: must be below 1"),
        ({"loop": {"clip": 0}}, "loop.clip 0: must be above 0"),
        ({"scales": [2, "x"]}, "scales[1] 'x': must be a whole number"),
        ({"sharpness": [0, 1, 2]}, "sharpness [0, 1, 2]: must be a list of 2"),
        ({"sharpness": [1, 0]}, "sharpness [1, 0]: must rise"),
        ({"model": 3}, "model 3: must be keys and values"),
        ([], "[]: must be keys and values"),
    ],
)
def test_what_does_not_fit_is_named_by_its_key(values: object, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        build(PlainConfig, values)
    assert str(raised.value) == said
