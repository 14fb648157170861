"""What samples are compared with: the moments of a dataset's training pictures."""

from __future__ import annotations

import torch

from phema.services.phema_worker.task_progress import TaskProgress
from phema.shared.datasets import Dataset
from phema.shared.metrics.frechet import Moments
from phema.shared.metrics.reference_statistics import measure, stored

_KEPT = 8
_known: dict[tuple[str, int], Moments] = {}


def reference_moments(
    dataset: Dataset, path: str | None, watch: TaskProgress, device: torch.device | str = "cpu"
) -> Moments:
    """Moments of the features of all training pictures of the dataset at `path`; measured once per process.

    `device` is where the features are computed. Moments that `phema dataset stats` left beside the dataset are taken
    when they are of the same pictures. Raises DatasetError, and Cancelled between two batches.
    """
    key = (dataset.facts.fingerprint, len(dataset.train))
    if key not in _known:
        watch.message = "reading training pictures"
        statistics = stored(dataset, path) or measure(dataset, device=device, progress=lambda done: watch.check())
        while len(_known) >= _KEPT:
            del _known[next(iter(_known))]
        _known[key] = statistics.moments
    return _known[key]
