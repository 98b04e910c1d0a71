"""Settings and cards are frozen, picklable, and say which option breaks which rule."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, replace

import pytest

from wsisr.errors import OptionError
from wsisr.models import SHIPPED, Settings
from wsisr.models.files import read_card


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("sampler", "x", "must be one of spaced-ddpm, ddim"),
        ("start_from", "x", "must be one of condition, noise"),
        ("color_fix", "x", "must be one of wavelet, adain, none"),
        ("consistency", "x", "must be one of soft, exact, off"),
        ("precision", "x", "must be one of fp32, bf16, fp16"),
        ("steps", 0, "must lie between 1 and 1000"),
        ("steps", 1001, "must lie between 1 and 1000"),
        ("start_timestep", 1000, "must lie between 0 and 999"),
        ("strength", 1.5, "must lie between 0 and 1"),
        ("fidelity", -0.5, "must lie between 0 and 1"),
        ("fidelity", float("nan"), "must lie between 0 and 1"),
        ("seed", 2**64, r"must lie between 0 and 2\^64 - 1"),
    ],
)
def test_what_is_out_of_range_names_option_value_and_rule(
    option: str, value: object, rule: str
) -> None:
    with pytest.raises(OptionError, match=f"{option} .*: {rule}") as raised:
        Settings(**{option: value})  # type: ignore[arg-type]
    assert (raised.value.option, raised.value.value) == (option, value)
    assert raised.value.spelled(lambda name: f"--{name}").startswith(f"--{option} ")


def test_the_limits_themselves_are_allowed() -> None:
    Settings(steps=1, start_timestep=0, strength=0, fidelity=0, seed=0)
    Settings(steps=1000, start_timestep=999, strength=1, fidelity=1, seed=2**64 - 1)


def test_settings_and_cards_travel_between_processes_unchanged() -> None:
    settings = Settings(steps=3, joint=(512, 64))
    assert pickle.loads(pickle.dumps(settings)) == settings
    card = read_card(SHIPPED["tiny"])
    assert pickle.loads(pickle.dumps(card)) == card
    assert replace(card, settings_by_scale={}).sampling_at(2) == card.sampling
    with pytest.raises(FrozenInstanceError):
        card.name = "other"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        settings.steps = 4  # type: ignore[misc]
