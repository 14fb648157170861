"""Seeds that depend only on a run's progress, so that a resumed run draws the same numbers."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def iteration_seed(seed: int, rank: int, num_images: int) -> int:
    """Seed in [0, 2^31) of the iteration that starts at `num_images` on worker `rank`.

    Unlike Python's hash, it is the same in every process and on every platform.
    """
    return int.from_bytes(_digest(f"{seed}/{rank}/{num_images}"), "little") % 2**31


def picture_seeds(seed: int, positions: NDArray[np.int64], purpose: str) -> NDArray[np.int64]:
    """Seeds in [0, 2^32) of the pictures at `positions` (images the run had seen before each), one per picture.

    They depend on neither batches nor workers. For one seed and purpose, positions below 2^32 have distinct seeds, so
    that a generator with 32 bits of seed, such as PyTorch's on the CPU, repeats no picture's noise.
    """
    first, second = np.frombuffer(_digest(f"{seed}/{purpose}"), np.uint32)
    return _mixed(_mixed(positions.astype(np.uint32) ^ first) ^ second).astype(np.int64)


def _mixed(x: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """A bijection of 32-bit integers that maps neighbours to unrelated values (MurmurHash3's finaliser)."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
