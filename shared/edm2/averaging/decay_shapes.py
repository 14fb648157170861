"""Shapes of a learning-rate decay: the multiplier as a function of the share that has passed. NumPy only."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Curve = Callable[[FloatArray], FloatArray]


class DecayShape(NamedTuple):
    """A multiplier that falls from 1 at share 0 of the decay to 0 at share 1."""

    multiplier: Curve
    slope: Curve
    """Minus the derivative of the multiplier. Its integral over the decay is 1."""
    square_integrable: bool = True
    """Whether the integral of the squared slope is finite."""


SHAPES: dict[str, DecayShape] = {
    "linear": DecayShape(lambda u: 1 - u, np.ones_like),
    # (1 + cos(pi u)) / 2, exact to the last digit near the end
    "cosine": DecayShape(lambda u: np.sin(np.pi / 2 * (1 - u)) ** 2, lambda u: np.pi / 2 * np.sin(np.pi * u)),
    "1-sqrt": DecayShape(lambda u: 1 - np.sqrt(u), lambda u: 0.5 / np.sqrt(u), square_integrable=False),
    "1-square": DecayShape(lambda u: 1 - u**2, lambda u: 2 * u),
}
"""By the names that schedules have in the literature (Hägele et al. 2024)."""
