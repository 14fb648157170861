"""A run's history for the scripts of its page: few numbers, however long the history is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from phema.shared.catalog import HistoryPoint, Run, Transaction
from phema.shared.recipes.noise_levels import noise_level_edges

MOST_ROWS = 400
MOST_VALUES = 9_000
"""Values of a page, of about 7 bytes each."""
SHOWN = ("loss", "denoising_loss", "learning_rate", "grad_norm", "images_per_second")
PREFIXES = ("loss_by_noise/", "activation/", "weight/", "training_activation/", "training_weight/")


def training_curves(tx: Transaction, run: Run) -> dict[str, Any] | None:
    """`{run, last, groups: [{times, values: {name: […]}}], noise}`; None without history.

    A group holds figures that are measured at the same times: the usual ones, and the magnitudes. `last` is the time of
    the latest row; `noise` describes the bins of `loss_by_noise/…`. Values that are not finite are None.
    """
    rows = tx.history.thinned(run.id, MOST_ROWS)
    if not rows:
        return None
    last = rows[-1].num_images
    size = sum(len(row.values) for row in rows)
    rows = _every(rows, -(-size // MOST_VALUES))
    measured = [row for row in rows if any(_is_magnitude(name) for name in row.values)]
    usual = sorted({name for row in rows for name in row.values if name in SHOWN or name.startswith(PREFIXES[0])})
    magnitudes = sorted({name for row in measured for name in row.values if _is_magnitude(name)})
    groups = [_group(rows, usual), _group(measured, magnitudes)]
    return {"run": run.name, "last": last, "groups": groups, "noise": noise_labels(run.config)}


def noise_labels(config: dict[str, Any]) -> list[str]:
    """What the bins of `loss_by_noise/…` stand for, in order."""
    bins, mean, std = config.get("noise_level_bins") or 0, config.get("p_mean"), config.get("p_std")
    if not isinstance(bins, int) or bins < 2 or mean is None or std is None:
        return []
    edges = [f"{edge:.2g}" for edge in noise_level_edges(bins, p_mean=mean, p_std=std)]
    between = [f"σ {low} to {high}" for low, high in pairwise(edges)]
    return [f"σ below {edges[0]}", *between, f"σ above {edges[-1]}"]


def _is_magnitude(name: str) -> bool:
    return name.startswith(PREFIXES[1:])


def _every(rows: Sequence[HistoryPoint], step: int) -> list[HistoryPoint]:
    """Every `step`-th row, counted from the last one."""
    return list(rows[::-1][::step][::-1])


def _group(rows: Sequence[HistoryPoint], names: Sequence[str]) -> dict[str, Any]:
    return {
        "times": [row.num_images for row in rows],
        "values": {name: [_short(row.values.get(name)) for row in rows] for name in names},
    }


def _short(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")
