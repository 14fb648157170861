"""Converts a stored profile to the weighting that the solvers use. Torch-free."""

from __future__ import annotations

from phema.shared.edm2.averaging import weightings
from phema.shared.snapshots.profile import Profile


def weighting(profile: Profile, num_images: int) -> weightings.Weighting:
    """The weighting of the training history by `profile` up to `num_images`.

    Raises weightings.WeightingError for a profile that is not a single weighting (per_tensor, basis).
    """
    match profile.kind:
        case "power":
            assert profile.sigma_rel is not None, "checked by Profile"
            return weightings.PowerWeighting(num_images, profile.sigma_rel)
        case "exponential":
            assert profile.half_life_images is not None, "checked by Profile"
            return weightings.ExponentialWeighting(num_images, profile.half_life_images, profile.rampup_ratio)
        case "uniform":
            assert profile.window_images is not None, "checked by Profile"
            return weightings.UniformWeighting(num_images, profile.window_images)
        case "raw":
            return weightings.RawWeighting(num_images)
        case "sampled":
            assert profile.times is not None, "checked by Profile"
            assert profile.weights is not None, "checked by Profile"
            return weightings.SampledWeighting(num_images, profile.times, profile.weights)
        case _:
            raise weightings.WeightingError(f"a profile of kind {profile.kind!r} is not a single weighting of history")
