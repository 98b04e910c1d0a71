"""A model with settings of their own for some scales: read, used, refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from wsisr.engine.array import upscale_image
from wsisr.errors import ModelError, UsageError
from wsisr.models import from_pretrained, load_upscaler, save_pretrained
from wsisr.models.files.card import read_card


def change(folder: Path, **values: object) -> Path:
    """Put values into a model's card."""
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(card | values))
    return folder


@pytest.fixture
def model(model_folder: Path) -> Path:
    """The small model, for 2, 4 and 8, with a fidelity of its own at 2 and 4."""
    own = {"fidelity": 0.25}
    sampling = {"steps": 2, "start_timestep": 400, "fidelity": 0}
    return change(
        model_folder, scales=[2, 4, 8], sampling=sampling, settings_by_scale={"2": own, "4": own}
    )


def test_the_nearest_scale_has_its_own_settings(model: Path) -> None:
    for scale, wanted in ((None, 0), (8, 0), (5.7, 0), (5.6, 0.25), (4, 0.25), (1.1, 0.25)):
        assert from_pretrained(model, scale=scale).settings.fidelity == wanted, scale


def test_what_the_user_says_goes_first(model: Path) -> None:
    for wanted in (0.0, 0.5):
        loaded = load_upscaler(str(model), settings={"fidelity": wanted}, scale=4)
        assert loaded.describe()["settings"]["fidelity"] == wanted


def test_upscaling_takes_those_of_its_scale(model: Path) -> None:
    lr = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    for scale, fidelity in ((4, 0.25), (8, 0.0)):
        made, expected, other = (
            upscale_image(lr, scale, model=str(model), window=128, overlap=32, **settings)
            for settings in ({}, {"fidelity": fidelity}, {"fidelity": 0.25 - fidelity})
        )
        assert np.array_equal(made, expected), scale
        assert not np.array_equal(made, other), scale


def test_a_card_is_written_as_it_is_read(model: Path, tmp_path: Path) -> None:
    card = read_card(model)
    assert card.settings_by_scale == {2.0: {"fidelity": 0.25}, 4.0: {"fidelity": 0.25}}
    save_pretrained(tmp_path / "again", card, {})
    assert read_card(tmp_path / "again") == card


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"4": "at-4"}, "`settings_by_scale.4`: .*dictionary"),
        (["4"], "`settings_by_scale`: .*dictionary"),
        ({"16": {}}, "`settings_by_scale` names 16"),
        ({"4": {"steps": 1.5}}, "`settings_by_scale.4`: `steps` cannot be 1.5"),
        ({"4": {"steps": True}}, "`steps` cannot be True"),
        ({"4": {"steps": 0}}, "`steps` cannot be 0: must lie between 1 and 1000"),
        ({"4": {"fidelity": "much"}}, "`fidelity` cannot be 'much'"),
        ({"4": {"fidelty": 0.1}}, "unknown setting fidelty"),
    ],
)
def test_refused(model: Path, settings: object, message: str) -> None:
    change(model, settings_by_scale=settings)
    with pytest.raises(ModelError, match=r"model\.json.*" + message):
        from_pretrained(model, scale=4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scales": [2, 0]}, "`scales.1`: must be a number above 0"),
        ({"scales": ["2"]}, "`scales.0`: must be a number above 0"),
        ({"scales": 4}, "`scales`: .*tuple"),
        ({"parts": {"restoration": 1}}, "`parts.restoration`: .*string"),
        ({"parts": {}}, "lists no part `restoration`"),
        ({"schedule": {"beta": 1.0}}, "`schedule`: `beta`"),
        ({"schedule": {"steps": 0}}, "`schedule`: `steps`"),
        ({"sampling": {"sampler": "guess"}}, "`sampling`: `sampler` cannot be 'guess'"),
        ({"base": 1}, "`base`: .*string"),
    ],
)
def test_the_error_names_the_key(model: Path, values: dict[str, object], message: str) -> None:
    change(model, settings_by_scale={}, **values)
    with pytest.raises(ModelError, match=r"model\.json: " + message):
        from_pretrained(model, scale=4)


def test_settings_of_the_caller_are_checked(model: Path) -> None:
    for settings in ({"steps": 0}, {"speed": 1}, {"fidelity": "much"}):
        with pytest.raises(UsageError, match=f"{next(iter(settings))}|wrong type"):
            from_pretrained(model, settings=settings)
