"""Counts steps in a row whose gradients are not finite, and ends a training that no longer learns."""

from __future__ import annotations

import torch

from phema.services.trainer.training.failures import not_finite
from phema.services.trainer.training.step import StepFigures
from phema.shared.recipes.run_config import RunConfig

NONFINITE_STEPS = 100
"""Default of the limit; services have a setting for it."""


class NonfiniteSteps:
    """The count stays on the device, and begins anew with every attempt. It is the same on all workers."""

    def __init__(self, config: RunConfig, device: torch.device, limit: int = NONFINITE_STEPS) -> None:
        self._config, self._limit = config, limit
        self._in_a_row = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, figures: StepFigures) -> None:
        """Add one step. Does not wait for the device."""
        self._in_a_row = torch.where(figures.nonfinite > 0, self._in_a_row + 1, 0)

    def check(self, num_images: int) -> None:
        """Raise NotFinite if the limit is reached. Waits for the device, so it is called when a status is due."""
        in_a_row = int(self._in_a_row.item())
        if in_a_row >= self._limit:
            raise not_finite(self._config, in_a_row, num_images)
