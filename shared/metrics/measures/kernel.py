"""Kernel distance: the unbiased squared maximum mean discrepancy with a cubic kernel (Bińkowski et al. 2018)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from phema.shared.metrics.figures import FigureValue, blocks, jackknifed
from phema.shared.metrics.reference import Reference

SUBSET = 1000
"""Most pictures of one side that are compared with each other at once; the size of the published subsets."""

_Matrix = NDArray[np.float64]


def kernel_distance(features: NDArray[np.float32], reference: Reference) -> FigureValue:
    """E k(x, x') + E k(r, r') - 2 E k(x, r) with k(a, b) = (a·b/d + 1)³, over pairs of different pictures.

    It is unbiased for any number of pictures, and may be negative. Sides of more than SUBSET pictures are dealt into
    S = ⌈n / SUBSET⌉ subsets, picture i into subset i mod S: pairs are taken within a subset of drawn pictures, within
    a subset of the reference, and between the subsets i mod S and i mod S' for i below the larger number. `reference`
    must hold features.
    """
    assert reference.features is not None
    drawn, real = _subsets(len(features)), _subsets(len(reference.features))
    block_of = np.zeros(len(features), np.int64)
    cut = blocks(len(features))
    for number, block in enumerate(cut):
        block_of[block] = number
    size = max(len(cut), 1)

    within = np.zeros((size, size))
    pairs = np.zeros((size, size))
    for subset in drawn:
        member = _membership(block_of[subset], size)
        kernel = _kernel(features[subset], features[subset])
        np.fill_diagonal(kernel, 0.0)
        within += member.T @ kernel @ member
        counts = member.sum(0)
        pairs += np.outer(counts, counts) - np.diag(counts)
    across, across_pairs = np.zeros(size), np.zeros(size)
    for i in range(max(len(drawn), len(real))):
        ours, theirs = drawn[i % len(drawn)], real[i % len(real)]
        member = _membership(block_of[ours], size)
        across += _kernel(features[ours], reference.features[theirs]).sum(1) @ member
        across_pairs += member.sum(0) * len(theirs)
    constant = _within_reference(reference.features, real)

    def distance(keep: NDArray[np.bool_]) -> float:
        chosen = np.ix_(keep, keep)
        own = within[chosen].sum() / pairs[chosen].sum()
        return float(own + constant - 2 * across[keep].sum() / across_pairs[keep].sum())

    everything = np.ones(size, bool)
    without = [distance(everything & (np.arange(size) != block)) for block in range(len(cut))]
    return jackknifed(distance(everything), without)


def _subsets(count: int) -> list[NDArray[np.int64]]:
    number = -(-count // SUBSET)
    return [np.arange(start, count, number) for start in range(number)]


def _membership(block_of: NDArray[np.int64], size: int) -> _Matrix:
    """[n, size]: 1 where the picture is in the block."""
    member: _Matrix = (block_of[:, None] == np.arange(size)).astype(np.float64)
    return member


def _kernel(a: NDArray[np.float32], b: NDArray[np.float32]) -> _Matrix:
    product = a.astype(np.float64) @ b.astype(np.float64).T
    values: _Matrix = (product / a.shape[1] + 1) ** 3
    return values


def _within_reference(features: NDArray[np.float32], subsets: list[NDArray[np.int64]]) -> float:
    total, pairs = 0.0, 0
    for subset in subsets:
        kernel = _kernel(features[subset], features[subset])
        total += float(kernel.sum() - np.trace(kernel))
        pairs += len(subset) * (len(subset) - 1)
    return total / pairs
