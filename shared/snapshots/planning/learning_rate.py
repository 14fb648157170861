"""The learning-rate schedule that an average stands for: averaging is a decay chosen afterwards. Torch-free.

An average scales the update that training made at time tau by the profile's tail, the weight of all times after tau.
For a power function at time t this multiplier is 1 - (tau / t)^(gamma + 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from phema.shared.snapshots.planning.profile_weighting import weighting
from phema.shared.snapshots.profile import Profile

SHARES = (0.5, 0.75, 0.9, 0.95)
"""Times at which plans state the multiplier, as shares of the time of the average."""


@dataclass(frozen=True)
class LearningRateMultiplier:
    """By what the average multiplies the learning rate at `num_images`."""

    num_images: int
    multiplier: float


def learning_rate_multipliers(
    profile: Profile, num_images: int, shares: Sequence[float] = SHARES
) -> tuple[LearningRateMultiplier, ...]:
    """Multipliers at these shares of the time `num_images` of the average; of a per-tensor profile, its default's.

    Raises WeightingError for a profile that is no single weighting.
    """
    times = [round(share * num_images) for share in shares]
    tails = weighting(profile.default or profile, num_images).tail(times)
    return tuple(LearningRateMultiplier(time, float(tail)) for time, tail in zip(times, tails, strict=True))
