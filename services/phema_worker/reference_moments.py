"""Moments of a dataset's training pictures, cached in the process that evaluates."""

from __future__ import annotations

import torch

from phema.services.phema_worker.task_progress import TaskProgress
from phema.shared.datasets import Dataset
from phema.shared.metrics.moments import Moments
from phema.shared.metrics.reference_statistics import load_matching, measure

_MAX_CACHED = 8
_cache: dict[tuple[str, int], Moments] = {}


def reference_moments(
    dataset: Dataset, path: str | None, watch: TaskProgress, device: torch.device | str = "cpu"
) -> Moments:
    """Moments of the features of all training pictures of the dataset at `path`; computed once per process.

    Statistics that `phema dataset stats` wrote next to the dataset are used if they describe the same pictures.
    Otherwise the features are computed on `device`. Raises DatasetError, and Cancelled between two batches.
    """
    key = (dataset.info.fingerprint, len(dataset.train))
    if key not in _cache:
        watch.message = "reading training pictures"
        statistics = load_matching(dataset, path) or measure(
            dataset, device=device, progress=lambda done: watch.check()
        )
        while len(_cache) >= _MAX_CACHED:
            del _cache[next(iter(_cache))]
        _cache[key] = statistics.moments
    return _cache[key]
