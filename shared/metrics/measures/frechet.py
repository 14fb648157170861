"""Fréchet distance (Heusel et al. 2017), with its jackknife from moments by block."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from phema.shared.metrics.figures import FigureValue, blocks, jackknifed
from phema.shared.metrics.moments import FrechetTo, Moments
from phema.shared.metrics.reference import Reference


def frechet(features: NDArray[np.float32], reference: Reference) -> FigureValue:
    """|μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2(Σ₁Σ₂)^½) between features [n, d], n ≥ 2, and all pictures of the reference.

    Raises FrechetError for fewer rows or values that are not finite.
    """
    distance = FrechetTo(reference.moments)
    parts = by_block(features)
    return jackknifed(distance(merged(parts)), [distance(part) for part in without_each(parts)])


def by_block(features: NDArray[np.float32]) -> list[Moments]:
    """Moments of each block of the jackknife, in order; one for all rows if there are too few for blocks."""
    return [Moments(features.shape[1]).add(features[block]) for block in blocks(len(features)) or [slice(None)]]


def merged(parts: list[Moments]) -> Moments:
    """Moments of all parts, added in their order."""
    total = Moments(parts[0].num_features)
    for part in parts:
        total.merge(part)
    return total


def without_each(parts: list[Moments]) -> list[Moments]:
    """Moments of all parts but the first, all but the second, …; empty for fewer than two parts.

    Sums from the front and from the back are kept, so that this takes three merges per part.
    """
    if len(parts) < 2:
        return []
    empty = Moments(parts[0].num_features)
    before, after = [empty.copy()], [empty.copy()]
    for part in parts[:-1]:
        before.append(before[-1].copy().merge(part))
    for part in reversed(parts[1:]):
        after.append(part.copy().merge(after[-1]))
    return [front.copy().merge(back) for front, back in zip(before, reversed(after), strict=True)]
