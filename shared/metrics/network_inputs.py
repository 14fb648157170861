"""What metrics that need no sampling are computed from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from phema.shared.datasets import Pictures
from phema.shared.edm2.networks.denoiser import Denoiser


@dataclass(frozen=True)
class NetworkInputs:
    """A network, the pictures that were kept from its training, and its noise distribution."""

    denoiser: Denoiser
    held_out: Pictures
    p_mean: float
    p_std: float
    """Mean and standard deviation of ln σ in training."""
    batch_size: int
    """Pictures that fit the device at once."""
    advance: Callable[[int], None] = lambda amount: None
    """Gets the number of network evaluations after each batch, counted in pictures. It may raise to stop."""
