"""Seeds that depend only on where a run stands, so that a resumed run draws what an uninterrupted one would."""

from __future__ import annotations

import hashlib


def iteration_seed(seed: int, rank: int, num_images: int) -> int:
    """Seed in [0, 2^31) of the iteration that starts at `num_images` on worker `rank`.

    A hash that is the same in every process and on every platform, unlike Python's own.
    """
    digest = hashlib.blake2b(f"{seed}/{rank}/{num_images}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % 2**31
