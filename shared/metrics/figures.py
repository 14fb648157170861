"""Values of figures with their standard errors, from a jackknife that deletes one block of pictures. NumPy only.

All figures of one evaluation have the same blocks. Two evaluations with the same seeds draw the same noise in the same
block, so a difference of the two is taken block by block and its error is much smaller than that of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

BLOCKS = 20
"""Blocks of a jackknife: its standard error then has itself a relative error of about 16 %."""
_SMALLEST_BLOCK = 2
"""Pictures. With larger blocks the sizes differ less: blocks of 2 and 3 are the most unequal ones."""


@dataclass(frozen=True)
class FigureValue:
    """The value of one figure."""

    value: float
    standard_error: float | None = None
    """None for too few pictures to tell."""
    replicates: tuple[float, ...] = ()
    """The value without block 0, without block 1, …; empty for too few pictures."""

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {"value": self.value, "standard_error": self.standard_error, "replicates": list(self.replicates)}

    @classmethod
    def of(cls, document: dict[str, Any]) -> Self:
        """From `document()`."""
        return cls(document["value"], document["standard_error"], tuple(document["replicates"]))


def blocks(count: int) -> list[slice]:
    """Contiguous blocks of `count` pictures, in order; sizes differ by at most 1. Empty if there would be fewer than 2.

    There are BLOCKS of them, or fewer for fewer than 2 · BLOCKS pictures.
    """
    number = min(BLOCKS, count // _SMALLEST_BLOCK)
    if number < 2:
        return []
    ends = [count * i // number for i in range(number + 1)]
    return [slice(start, stop) for start, stop in pairwise(ends)]


def jackknifed(value: float, replicates: Sequence[float]) -> FigureValue:
    """The figure with the delete-one-block standard error ((B - 1)/B · Σ (θ_b - mean θ)²)^½ of its replicates."""
    if len(replicates) < 2:
        return FigureValue(float(value))
    centred = _centred(replicates)
    return FigureValue(float(value), float(np.sqrt(centred @ centred)), tuple(map(float, replicates)))


def mean_of(contributions: NDArray[np.floating[Any]]) -> FigureValue:
    """The figure that is the mean of one contribution per picture, [n] in seed order."""
    values = np.asarray(contributions, np.float64)
    total, count = values.sum(), len(values)
    without = [(total - values[block].sum()) / (count - (block.stop - block.start)) for block in blocks(count)]
    return jackknifed(float(total / count), without)


def difference(a: FigureValue, b: FigureValue) -> tuple[float, float | None]:
    """a - b and its standard error; None if one of them has none.

    Figures with the same number of replicates are paired block by block (common random numbers). Others are taken as
    independent.
    """
    value = a.value - b.value
    if len(a.replicates) == len(b.replicates) and a.replicates:
        paired = [x - y for x, y in zip(a.replicates, b.replicates, strict=True)]
        return value, jackknifed(value, paired).standard_error
    if a.standard_error is None or b.standard_error is None:
        return value, None
    return value, float(np.hypot(a.standard_error, b.standard_error))


def covariance(values: Sequence[FigureValue]) -> NDArray[np.float64]:
    """Covariance [k, k] of the errors of k figures. Those with different numbers of replicates have 0 between them.

    Raises ValueError for a figure without standard error.
    """
    if any(value.standard_error is None for value in values):
        raise ValueError("a figure has no standard error: it was computed from too few pictures")
    centred = [_centred(value.replicates) for value in values]
    found = np.zeros((len(values), len(values)))
    for i, a in enumerate(centred):
        for j, b in enumerate(centred):
            if i == j and not len(a):
                found[i, j] = float(values[i].standard_error or 0.0) ** 2
            elif len(a) == len(b):
                found[i, j] = a @ b
    return found


def _centred(replicates: Sequence[float]) -> NDArray[np.float64]:
    """Replicates about their mean, scaled so that their scalar products are covariances."""
    values = np.asarray(replicates, np.float64)
    return (values - values.mean()) * np.sqrt((len(values) - 1) / len(values)) if len(values) else values
