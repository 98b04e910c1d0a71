from __future__ import annotations

import math

from bench.quality.markdown import LAYOUTS, to_markdown
from bench.quality.results import QualityTable, Row


def rows(**scores: tuple[float, ...]) -> QualityTable:
    names = ("psnr", "niqe", "hf_db")
    made = [
        Row("d", name, 4, None, 1, dict(zip(names, values, strict=True)), ranked=name != "scan")
        for name, values in scores.items()
    ]
    return QualityTable(tuple(made), names, {}, {}, {})


def figures(scores: QualityTable, number: int) -> dict[str, list[str]]:
    lines = [line.split(" | ") for line in to_markdown(scores, LAYOUTS[number]).splitlines()[2:]]
    return {line[1]: [cell.strip(" |") for cell in line[-3:]] for line in lines if len(line) > 3}


def test_best_and_second_or_worst_are_marked_by_each_measures_direction() -> None:
    scores = rows(a=(30, 5, -3.0), b=(28, 4, 1.0), c=(29, 6, math.nan), scan=(99, 1, 0.0))
    lines = figures(scores, 2)
    assert lines["a"] == ["**30.00**", "<u>5.000</u>", "<u>-3.000</u>"]
    assert lines["b"] == ["28.00", "**4.000**", "**1.000**"]
    assert lines["c"] == ["<u>29.00</u>", "6.000", "–"]
    assert lines["scan"] == ["99.00", "1.000", "0.000"]
    worst = figures(scores, 6)
    assert worst["c"][:2] == ["29.00", "*6.000*"]
    assert worst["b"][0] == "*28.00*"
    assert "**" not in to_markdown(rows(a=(30, 5, -3.0)), LAYOUTS[2])
