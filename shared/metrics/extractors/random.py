"""`random`: fixed random convolutions. They need no download and take pictures and latents of any size."""

from __future__ import annotations

from phema.shared.metrics.extractor import Extractor
from phema.shared.metrics.metric import ScoredRun


def _obstacle(run: ScoredRun) -> str | None:
    return None


EXTRACTOR = Extractor(
    name="random",
    num_features=64,
    sees_latents=True,
    description="fixed random convolutions",
    obstacle=_obstacle,
    module="phema.shared.metrics.networks.random_convolutions",
)
