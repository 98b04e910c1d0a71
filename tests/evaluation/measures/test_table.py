"""The table of measures: every entry is whole, and a new one is a file and an entry."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from wsisr.evaluation import measure, measures
from wsisr.evaluation.measures import selection
from wsisr.evaluation.measures.metric import Deferred, Metric
from wsisr.evaluation.measures.pixels import Image
from wsisr.evaluation.measures.sample import Sample
from wsisr.evaluation.measures.table import METRICS


def test_names_are_unique_and_every_measure_says_how_it_is_computed() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert len({metric.label for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert metric.convention
        assert metric.name not in selection.METRIC_GROUPS


def test_measures_that_are_imported_late_are_there() -> None:
    deferred = [metric.compute for metric in METRICS if isinstance(metric.compute, Deferred)]
    assert len(deferred) >= 9
    for compute in deferred:
        module, _, function = compute.path.partition(".")
        assert callable(getattr(import_module(f"{measures.__name__}.{module}"), function))
        assert all(hasattr(Sample, name) or name == "sr" for name in compute.takes)


def test_a_new_measure_is_a_file_and_an_entry(
    noise: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "brightness.py").write_text("def brightness(image):\n    return image.mean()\n")
    monkeypatch.setattr(measures, "__path__", [*measures.__path__, str(tmp_path)])
    entry = Metric(
        "brightness",
        "brightness",
        "zero",
        "mean of all channels, 0 to 255",
        Deferred("brightness.brightness", ("sr",)),
        needs=frozenset(),
    )
    monkeypatch.setattr(selection, "METRICS", (*METRICS, entry))
    assert measure(noise, metrics=["brightness"]) == {"brightness": pytest.approx(np.mean(noise))}
    monkeypatch.delitem(sys.modules, f"{measures.__name__}.brightness")
