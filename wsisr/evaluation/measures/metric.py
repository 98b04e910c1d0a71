"""What a measure is: a name, a direction, a convention, what it needs, how it is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Literal

from wsisr.evaluation.measures.sample import Sample

Need = Literal["hr", "lr", "sr_nuclei"]
"""What a measure needs beside SR: the real scan, the input, nuclei that are found in SR itself."""
STATISTICS = frozenset({"niqe", "brisque", "nrqm"})
"""Weights that are tables of numbers; all others are those of networks."""


@dataclass(frozen=True)
class Metric:
    """A measure of one tile.

    Attributes:
        name: its name in options, tables and JSON.
        label: its name in reports.
        better: whether higher or lower values are better, or those closer to zero.
        convention: how it is computed exactly; stands in every report.
        compute: gives its value for a tile; NaN where it is not defined.
        needs: what the tile must have.
        weights: entries of the registry of weights that it needs.
        weight: gives what a tile counts in a mean. Nuclear measures count nuclei, not tiles.
        least: shorter and longer side in px of the smallest tile that it can be computed for.
        slow: whether it takes longer than all others without a network together.
    """

    name: str
    label: str
    better: Literal["higher", "lower", "zero"]
    convention: str
    compute: Callable[[Sample], float]
    needs: frozenset[Need] = frozenset({"hr"})
    weights: tuple[str, ...] = ()
    weight: Callable[[Sample], float] = lambda _: 1.0
    least: tuple[int, int] = (1, 1)
    slow: bool = False

    def fits(self, height: int, width: int) -> bool:
        """Tells whether it can be computed for a tile of this size."""
        shorter, longer = sorted((height, width))
        return shorter >= self.least[0] and longer >= self.least[1]

    @property
    def uses_torch(self) -> bool:
        """Tells whether a network of torch computes it."""
        return not STATISTICS.issuperset(self.weights)

    @property
    def on_request(self) -> bool:
        """Tells whether it runs only when it is asked for."""
        return self.uses_torch or self.slow


@dataclass(frozen=True)
class Deferred:
    """Calls a function of a module beside this one, which is imported when the first tile comes.

    torch takes seconds to import, and most runs have no use for it.

    Attributes:
        path: MODULE.FUNCTION.
        takes: attributes of `Sample` that the function gets, in order.
        extra: further arguments of the function.
    """

    path: str
    takes: tuple[str, ...]
    extra: tuple[str, ...] = ()

    def __call__(self, sample: Sample) -> float:
        """Computes the measure for a tile."""
        module, _, function = self.path.partition(".")
        compute = getattr(import_module(f"{__package__}.{module}"), function)
        return float(compute(*(getattr(sample, name) for name in self.takes), *self.extra))
