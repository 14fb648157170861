"""Power-function averages of training history and their relative width (Karras et al. 2024, Section 3.1, Appendix C).

The average of weights theta at time t is (gamma + 1) / t^(gamma + 1) * integral over [0, t] of tau^gamma theta(tau).
Its weighting is a Beta(gamma + 1, 1) density stretched to [0, t]; `sigma_rel` is that density's standard deviation
divided by t. Times count images. Torch-free, scalars only.
"""

from __future__ import annotations

import math

SIGMA_REL_LIMIT = 12**-0.5
"""Supremum of sigma_rel over gamma > 0 (about 0.2887): the width of the flat average of all history, gamma = 0."""


class PowerFunctionError(ValueError):
    """A width, exponent or time is outside its domain."""


def sigma_rel_from_gamma(gamma: float) -> float:
    """Relative width of the profile with exponent `gamma` > 0 (Eq. 126)."""
    if not (gamma > 0 and math.isfinite(gamma)):
        raise PowerFunctionError(f"gamma {gamma!r} must be a finite number above 0")
    return math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))


def gamma_from_sigma_rel(sigma_rel: float) -> float:
    """Exponent of the profile with relative width `sigma_rel`, 0 < sigma_rel < 12^-0.5 (Algorithm 2).

    The largest root of gamma^3 + 7 gamma^2 + (16 - s) gamma + (12 - s) with s = sigma_rel^-2, in Viete's
    trigonometric form: all three roots are real over the whole domain.
    """
    if not 0 < sigma_rel < SIGMA_REL_LIMIT:
        raise PowerFunctionError(f"sigma_rel {sigma_rel!r} must lie strictly between 0 and 12^-0.5 = 0.28867513")
    s = sigma_rel**-2
    p = (16 - s) - 49 / 3
    q = 686 / 27 - 7 * (16 - s) / 3 + (12 - s)
    cosine = (3 * q / (2 * p)) * math.sqrt(-3 / p)
    gamma = 2 * math.sqrt(-p / 3) * math.cos(math.acos(max(-1.0, min(1.0, cosine))) / 3) - 7 / 3
    return _polish(gamma, s)


def beta(gamma: float, num_images_next: float, delta_images: float) -> float:
    """The beta of the update average <- beta * average + (1 - beta) * weights (Eq. 127).

    `num_images_next` counts the images seen after the step, `delta_images` those of the step. The first step has beta
    0, so initial weights never enter an average. Raises PowerFunctionError.
    """
    if not 0 < delta_images <= num_images_next:
        raise PowerFunctionError(
            f"delta_images {delta_images!r} must be above 0 and at most num_images_next {num_images_next!r}"
        )
    return float((1 - delta_images / num_images_next) ** (gamma + 1))


def _polish(gamma: float, s: float) -> float:
    """One Newton step on (gamma + 2)^2 (gamma + 3) / (gamma + 1) = s, against the rounding error of the closed form."""
    value = (gamma + 2) ** 2 * (gamma + 3) / (gamma + 1)
    slope = value * (2 / (gamma + 2) + 1 / (gamma + 3) - 1 / (gamma + 1))
    return gamma - (value - s) / slope
