"""How long a training would take, from the throughput of earlier runs of this service."""

from __future__ import annotations

import math
import statistics
from typing import NamedTuple

from pydantic import ValidationError

from phema.shared.catalog import Transaction
from phema.shared.edm2.networks.costs import costs
from phema.shared.recipes.run_config import RunConfig

_RUNS = 20
"""Latest runs that are looked at."""
_ROWS = 32
"""Rows of a run's history whose median is its throughput."""


class Duration(NamedTuple):
    hours: float
    basis: str
    """One phrase: the run, its throughput and its cost per picture."""


def estimated_duration(tx: Transaction, config: RunConfig) -> Duration | None:
    """Hours of a training; None if no run of this service has trained on the same kind of device.

    Of the latest runs, the one whose cost per picture is nearest counts. Time is taken to be proportional to that cost,
    and inversely proportional to the number of workers.
    """
    wanted = costs(config.network).gflops
    nearest: tuple[float, Duration] | None = None
    for row in tx.runs.list(limit=_RUNS).items:
        if row.origin != "trained" or not row.num_images:
            continue
        try:
            earlier = RunConfig.model_validate(row.config)
        except ValidationError:  # of another version
            continue
        if (earlier.device, earlier.precision) != (config.device, config.precision):
            continue
        rates = [point.values.get("images_per_second") for point in tx.history.thinned(row.id, _ROWS)]
        known = [rate for rate in rates if rate is not None and math.isfinite(rate) and rate > 0]
        if not known:
            continue
        rate, cost = statistics.median(known), costs(earlier.network).gflops
        distance = abs(math.log(wanted / cost))
        if nearest is None or distance < nearest[0]:
            expected = rate * cost / wanted * config.num_workers / earlier.num_workers
            basis = f"run {row.name} trained on {rate:.3g} images/s at {cost:.3g} Gflops per evaluation"
            nearest = (distance, Duration(config.total_images / expected / 3600, basis))
    return None if nearest is None else nearest[1]
