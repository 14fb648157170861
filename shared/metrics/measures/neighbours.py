"""Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020), from nearest neighbours.

Each picture of one side has a ball in feature space whose radius is the distance to its k-th nearest neighbour on the
same side. The four figures ask which pictures of the other side lie in the balls. Distances are computed once, in
slices of bounded memory; the jackknife reuses them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from phema.shared.metrics.figures import FigureValue, blocks, jackknifed, mean_of
from phema.shared.metrics.reference import Reference

RECALL_NEIGHBOURS = 3
COVERAGE_NEIGHBOURS = 5
_SLICE_VALUES = 2**24
"""Distances in memory at once: 128 MiB."""

_Rows = NDArray[np.float32]
_Values = NDArray[np.float64]


def precision_and_recall(features: _Rows, reference: Reference) -> tuple[FigureValue, FigureValue]:
    """Share of drawn pictures in balls of the reference, and of the reference in balls of drawn pictures; k = 3.

    `reference` must hold features. Both sides need more than 3 pictures.
    """
    assert reference.features is not None
    real = reference.features
    radii = _radii(real, RECALL_NEIGHBOURS)
    cut = blocks(len(features))
    own_radii = _radii_without(features, cut, RECALL_NEIGHBOURS)
    largest = own_radii.max(axis=1)
    block_of = _block_numbers(len(features), cut)
    precise = np.zeros(len(features), bool)
    recalled = np.zeros((len(real), own_radii.shape[1]), bool)
    for rows, distances in _slices(real, features):
        precise |= (distances <= radii[rows, None]).any(axis=0)
        # Few pairs are close enough for any of the radii; only those are compared with each of them.
        i, j = np.nonzero(distances <= largest)
        close = distances[i, j, None] <= own_radii[j]
        if cut:
            close[np.arange(len(j)), 1 + block_of[j]] = False
        np.logical_or.at(recalled, i + rows.start, close)
    shares = recalled.mean(axis=0)
    return mean_of(precise.astype(np.float64)), jackknifed(float(shares[0]), [float(share) for share in shares[1:]])


def density_and_coverage(features: _Rows, reference: Reference) -> tuple[FigureValue, FigureValue]:
    """Balls of the reference that hold a drawn picture, on average, divided by k; share of them that hold one; k = 5.

    `reference` must hold features, of more than 5 pictures.
    """
    assert reference.features is not None
    real = reference.features
    radii = _radii(real, COVERAGE_NEIGHBOURS)
    cut = blocks(len(features)) or [slice(0, len(features))]
    holding = np.zeros(len(features))
    covered = np.zeros((len(real), len(cut)), bool)
    for rows, distances in _slices(real, features):
        inside = distances <= radii[rows, None]
        holding += inside.sum(axis=0)
        covered[rows] = np.stack([inside[:, block].any(axis=1) for block in cut], axis=1)
    in_blocks = covered.sum(axis=1)
    # Without a block, a ball stays covered if another block has a picture in it.
    without = [float((in_blocks - covered[:, block] > 0).mean()) for block in range(len(cut))]
    coverage = jackknifed(float((in_blocks > 0).mean()), without if len(cut) > 1 else [])
    return mean_of(holding / COVERAGE_NEIGHBOURS), coverage


def _radii(rows: _Rows, neighbours: int) -> _Values:
    """Squared distance [n] of each row to its k-th nearest other row."""
    found = np.empty(len(rows))
    for part, distances in _slices(rows, rows):
        distances[np.arange(len(distances)), np.arange(part.start, part.stop)] = np.inf
        found[part] = np.partition(distances, neighbours - 1, axis=1)[:, neighbours - 1]
    return found


def _radii_without(rows: _Rows, cut: list[slice], neighbours: int) -> _Values:
    """[n, 1 + B]: `_radii` among all rows, and without each block."""
    if not cut:
        return _radii(rows, neighbours)[:, None]
    found = np.empty((len(rows), 1 + len(cut)))
    for part, distances in _slices(rows, rows):
        distances[np.arange(len(distances)), np.arange(part.start, part.stop)] = np.inf
        # The k nearest of each block are enough to know the k nearest without any one block.
        nearest = np.full((len(distances), len(cut), neighbours), np.inf)
        for number, block in enumerate(cut):
            kept = min(neighbours, block.stop - block.start)
            nearest[:, number, :kept] = np.partition(distances[:, block], kept - 1, axis=1)[:, :kept]
        found[part, 0] = _kth(nearest, neighbours)
        for number in range(len(cut)):
            found[part, 1 + number] = _kth(np.delete(nearest, number, axis=1), neighbours)
    return found


def _kth(nearest: _Values, neighbours: int) -> _Values:
    """The k-th smallest of the values of each row."""
    values = nearest.reshape(len(nearest), -1)
    return np.asarray(np.partition(values, neighbours - 1, axis=1)[:, neighbours - 1])


def _block_numbers(count: int, cut: list[slice]) -> NDArray[np.int64]:
    numbers = np.zeros(count, np.int64)
    for number, block in enumerate(cut):
        numbers[block] = number
    return numbers


def _slices(a: _Rows, b: _Rows) -> Iterator[tuple[slice, _Values]]:
    """Squared distances between slices of the rows of `a` and all rows of `b`, in float64.

    Both sides are taken about the mean of `b`, so that a large common mean costs no digits.
    """
    mean = b.mean(axis=0, dtype=np.float64)
    others = b.astype(np.float64) - mean
    squares = (others**2).sum(axis=1)
    turned = -2 * others.T
    height = max(1, _SLICE_VALUES // len(b))
    for start in range(0, len(a), height):
        part = slice(start, min(start + height, len(a)))
        own = a[part].astype(np.float64) - mean
        distances = own @ turned
        distances += squares
        distances += (own**2).sum(axis=1)[:, None]
        yield part, np.maximum(distances, 0.0, out=distances)
