"""How a run is evaluated while it trains. Torch-free, so that the API can validate it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from phema.shared.edm2.averaging.power_function import SIGMA_REL_LIMIT
from phema.shared.edm2.networks.config import FrozenModel
from phema.shared.recipes.evaluation_recipe import MetricName


class ContinuousEvaluation(FrozenModel):
    """Scores three EMA lengths around the best one so far, at every `every_snapshots`-th snapshot time."""

    every_snapshots: Annotated[int, Field(ge=1, le=10_000)] = 4
    """Snapshot times from one evaluated time to the next."""
    sigma_rel: Annotated[float, Field(gt=0, lt=SIGMA_REL_LIMIT)] = 0.1
    """EMA length around which the first bracket lies."""
    factor: Annotated[float, Field(ge=1.05, le=3)] = 1.4
    """Ratio of neighbouring EMA lengths of a bracket. The best may move by one factor from one time to the next."""
    num_samples: Annotated[int, Field(ge=1, le=100_000)] = 1024
    num_steps: Annotated[int, Field(ge=2, le=1000)] = 32
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    metrics: tuple[MetricName, ...] | None = None
    """None for the defaults of the run's dataset. The figure that ranks all evaluations ranks here too, whatever the
    order in this list (`ranking_figure`)."""
    stop_after_images: Annotated[int, Field(ge=1, le=2**53 - 1)] | None = None
    """End the run after a checkpoint once so many images have brought no gain; None never does."""
