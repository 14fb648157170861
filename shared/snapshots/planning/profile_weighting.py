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
        case "uniform" if profile.times is not None:
            return weightings.TimesWeighting(num_images, profile.times)
        case "uniform" if profile.last_times is not None:
            raise weightings.WeightingError(
                f"last_times {profile.last_times} has no meaning without the stored times of a run; give times"
            )
        case "lr_decay":
            assert profile.shape is not None, "checked by Profile"
            start = profile.start_images
            if start is None:
                assert profile.length_images is not None, "checked by Profile"
                if profile.length_images > num_images:
                    raise weightings.WeightingError(
                        f"length_images {profile.length_images} of the decay must be at most num_images {num_images}"
                    )
                start = num_images - profile.length_images
            return weightings.DecayWeighting(num_images, start, profile.shape)
        case "uniform":
            assert profile.window_images is not None, "checked by Profile"
            return weightings.UniformWeighting(num_images, profile.window_images)
        case "raw":
            return weightings.RawWeighting(num_images)
        case "sampled":
            assert profile.times is not None, "checked by Profile"
            assert profile.weights is not None, "checked by Profile"
            return weightings.SampledWeighting(num_images, profile.times, profile.weights)
        case "mixture":
            assert profile.profiles is not None, "checked by Profile"
            assert profile.weights is not None, "checked by Profile"
            parts = tuple(weighting(part, num_images) for part in profile.profiles)
            return weightings.MixtureWeighting(parts, profile.weights)
        case _:
            raise weightings.WeightingError(f"a profile of kind {profile.kind!r} is not a single weighting of history")
