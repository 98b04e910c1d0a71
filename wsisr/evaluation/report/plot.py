"""The plot of perception against distortion, as the places of its texts and points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 520, 320
LEFT, BOTTOM, ACROSS, UP = 60, 266, 440, 250
"""The frame: its lower left corner and its size, px."""


@dataclass(frozen=True)
class Tick:
    """A value on both axes.

    Attributes:
        x: place on the axis across.
        y: place on the axis up.
        x_value: text there.
        y_value: text there.
    """

    x: str
    y: str
    x_value: str
    y_value: str


@dataclass(frozen=True)
class Point:
    """One method in the plot.

    Attributes:
        name: its name.
        x: place of the dot.
        y: place of the dot.
        text_x: place of the name.
        text_y: place of the name.
        anchor: side of the name that lies at its place, `start` or `end`.
    """

    name: str
    x: str
    y: str
    text_x: str
    text_y: str
    anchor: str


@dataclass(frozen=True)
class Plot:
    """Everything the template draws.

    Attributes:
        x_label: text below.
        y_label: text beside.
        ticks: values on the axes.
        points: one a method.
        width: width of the picture, px.
        height: height of the picture, px.
    """

    x_label: str
    y_label: str
    ticks: Sequence[Tick]
    points: Sequence[Point]
    width: int = WIDTH
    height: int = HEIGHT


def perception_distortion(
    points: Mapping[str, tuple[float, float]], x_label: str, y_label: str
) -> Plot | None:
    """Lays out a plot with one labelled point a method: distortion across, perception up.

    Args:
        points: {method: (distortion, perception)}.
        x_label: text below.
        y_label: text beside.

    Returns:
        The plot; None where no method has two finite values.
    """
    usable = {name: p for name, p in points.items() if all(map(math.isfinite, p))}
    if not usable:
        return None
    xs, ys = zip(*usable.values(), strict=True)
    (x0, x1), (y0, y1) = _padded(xs), _padded(ys)
    ticks = [
        Tick(
            f"{LEFT + ACROSS * share:.0f}",
            f"{BOTTOM - UP * share + 4:.0f}",
            f"{x0 + (x1 - x0) * share:.3g}",
            f"{y0 + (y1 - y0) * share:.3g}",
        )
        for share in (0.0, 0.5, 1.0)
    ]
    placed = []
    for name, (x, y) in usable.items():
        px, py = LEFT + ACROSS * (x - x0) / (x1 - x0), BOTTOM - UP * (y - y0) / (y1 - y0)
        # away from the nearer edge, so that no name leaves the frame
        side, anchor = (8, "start") if px < LEFT + ACROSS / 2 else (-8, "end")
        placed.append(
            Point(name, f"{px:.1f}", f"{py:.1f}", f"{px + side:.1f}", f"{py - 6:.1f}", anchor)
        )
    return Plot(x_label, y_label, ticks, placed)


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.15 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin
