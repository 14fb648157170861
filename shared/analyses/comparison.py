"""Which points cannot be told from the best one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from phema.shared.metrics.figures import FigureValue, difference

TOLD_APART = 2.0
"""Standard errors of the difference, from which on two points are told apart."""


@dataclass(frozen=True)
class Compared:
    """One value beside the best one."""

    value: FigureValue
    difference: float
    """To the best value; 0 for the best."""
    difference_error: float | None
    """Standard error of the difference; None if unknown, and for the best."""
    is_best: bool
    tied: bool
    """The value cannot be told from the best one. The best one is tied, too."""


def compare(values: Sequence[FigureValue], better: Literal["lower", "higher"]) -> list[Compared]:
    """Every value beside the best of them, in the same order. Pairs blocks of equal seeds (`difference`)."""
    if not values:
        return []
    sign = 1.0 if better == "lower" else -1.0
    best = min(values, key=lambda value: sign * value.value)
    place = next(index for index, value in enumerate(values) if value is best)
    found = []
    for index, value in enumerate(values):
        if index == place:
            found.append(Compared(value, 0.0, None, is_best=True, tied=True))
            continue
        gap, error = difference(value, best)
        tied = gap == 0 or (error is not None and abs(gap) < TOLD_APART * error)
        found.append(Compared(value, gap, error, is_best=False, tied=tied))
    return found
