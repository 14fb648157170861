"""`digits`: hidden units of a small classifier of the built-in digits."""

from __future__ import annotations

from phema.shared.metrics.extractor import Extractor
from phema.shared.metrics.metric import ScoredRun

TRAINED_ON = 1_200
"""The classifier is trained on the first pictures of the dataset's one fixed order. Held-out pictures are its last."""
DIGITS = 1_797
"""Pictures of the dataset."""


def _obstacle(run: ScoredRun) -> str | None:
    if (run.channels, run.resolution) != (1, 8):
        return f"takes grey pictures of 8x8, and these have {run.channels} channels and {run.resolution} pixels a side"
    if run.dataset == "digits" and run.held_out > DIGITS - TRAINED_ON:
        return (
            f"is trained on {TRAINED_ON} digits, and dataset.held_out {run.held_out} leaves "
            f"{DIGITS - run.held_out}; at most {DIGITS - TRAINED_ON} are allowed"
        )
    return None


EXTRACTOR = Extractor(
    name="digits",
    num_features=64,
    sees_latents=False,
    description="hidden units of a small classifier of the built-in digits",
    obstacle=_obstacle,
    module="phema.shared.metrics.networks.digits_classifier",
)
