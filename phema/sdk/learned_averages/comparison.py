"""Compares a learned average with the best EMA length on data that the search has not seen. NumPy only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from phema.errors import InvalidArgument

Losses = float | Sequence[float] | Iterable[Any]
"""A score, or one loss for each example: numbers, or a tensor or array of one dimension."""


@dataclass(frozen=True)
class Comparison:
    """Held-out scores of a learned average and of the best EMA length. Lower is better."""

    learned: float
    best_length: float
    difference: float
    """learned - best_length"""
    standard_error: float | None
    """Of the difference, paired by example. None if the score is a single number."""
    examples: int

    @property
    def sentence(self) -> str:
        """What the comparison says, in one sentence."""
        if self.standard_error is None:
            return (
                f"On held-out data the learned average scores {self.learned:.6g} and the best EMA length "
                f"{self.best_length:.6g}; the error of the difference is unknown, because the score is one number."
            )
        gap = f"{self.difference:+.3g} ± {self.standard_error:.2g} from the best EMA length on held-out data"
        if abs(self.difference) < 2 * self.standard_error:
            return f"The learned average cannot be told from the best EMA length: it differs by {gap}."
        word = "better" if self.difference < 0 else "worse"
        return f"The learned average is {word}: it differs by {gap}."

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def losses_of(name: str, given: Losses) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[examples] float64; one entry for a single number. Raises InvalidArgument, which calls the function `name`."""
    try:
        losses = np.atleast_1d(np.asarray(given, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"{name} must return a number or one loss for each example: {error}") from error
    if losses.ndim != 1 or not len(losses):
        raise InvalidArgument(f"{name} must return a number or one loss for each example, got shape {losses.shape}")
    return losses


def compare(learned: Losses, best_length: Losses) -> Comparison:
    """Paired by example. Raises InvalidArgument for different numbers of examples."""
    ours, theirs = losses_of("held_out", learned), losses_of("held_out", best_length)
    if len(ours) != len(theirs):
        raise InvalidArgument(f"held_out returned {len(ours)} losses, then {len(theirs)}; use the same examples")
    gap = ours - theirs
    error = float(gap.std(ddof=1)) / math.sqrt(len(gap)) if len(gap) > 1 else None
    return Comparison(float(ours.mean()), float(theirs.mean()), float(gap.mean()), error, len(gap))
