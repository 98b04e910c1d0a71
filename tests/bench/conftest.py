"""Benches are tested by what they say of small inputs, not by how fast they are."""

from __future__ import annotations

import pytest

from wsisr.evaluation import weights


@pytest.fixture
def no_weights(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Learned measures take ten times as long as all others together."""
    monkeypatch.setenv(weights.WEIGHTS_VARIABLE, str(tmp_path_factory.mktemp("none")))
