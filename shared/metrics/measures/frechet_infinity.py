"""Fréchet distance extrapolated to infinitely many pictures (Chong & Forsyth 2020)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from phema.shared.metrics.figures import FigureValue, jackknifed
from phema.shared.metrics.measures.frechet import by_block, merged, without_each
from phema.shared.metrics.moments import FrechetTo, Moments
from phema.shared.metrics.reference import Reference

DIVISIONS = (1, 2, 4)
"""The pictures are used whole, in halves and in quarters, so that the line has three points."""


def frechet_infinity(features: NDArray[np.float32], reference: Reference) -> FigureValue:
    """The limit of the Fréchet distance for n → ∞, from a line in 1/n; it may be negative.

    The distance of n pictures has an upward bias that is nearly proportional to 1/n. Each point of the line is the
    mean distance of disjoint contiguous groups of pictures of equal size: 1 of all, 2 halves, 4 quarters. Raises
    FrechetError for fewer than 8 pictures.
    """
    distance = FrechetTo(reference.moments)
    parts = by_block(features)
    groups = [_groups(parts, division) for division in DIVISIONS]
    whole = [[_Group(merged(group), distance) for group in division] for division in groups]
    value = _limit(whole)
    replicates = []
    # Without one block, only the groups that held it change.
    changed = [[without_each(group) for group in division] for division in groups]
    for block in range(len(parts)):
        points = []
        for division, cut, found in zip(groups, changed, whole, strict=True):
            number, inside = _place(division, block)
            points.append([*found[:number], _Group(cut[number][inside], distance), *found[number + 1 :]])
        replicates.append(_limit(points))
    return jackknifed(value, replicates)


class _Group:
    """The point of one group of pictures."""

    def __init__(self, moments: Moments, distance: Callable[[Moments], float]) -> None:
        self.inverse_count, self.distance = 1 / moments.count, distance(moments)


def _groups(parts: Sequence[Moments], number: int) -> list[list[Moments]]:
    """`parts` in `number` contiguous groups."""
    ends = [len(parts) * i // number for i in range(number + 1)]
    return [list(parts[start:stop]) for start, stop in pairwise(ends)]


def _place(groups: Sequence[Sequence[Moments]], block: int) -> tuple[int, int]:
    """Number of the group that holds a block, and its place there."""
    for number, group in enumerate(groups):
        if block < len(group):
            return number, block
        block -= len(group)
    raise IndexError(block)


def _limit(points: Sequence[Sequence[_Group]]) -> float:
    """Value at 0 of the least-squares line through the mean of each division."""
    x = [float(np.mean([group.inverse_count for group in division])) for division in points]
    y = [float(np.mean([group.distance for group in division])) for division in points]
    return float(np.polynomial.Polynomial.fit(x, y, 1)(0.0))
