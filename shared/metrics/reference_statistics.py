"""Reference statistics: moments of the training pictures in a feature space, computed once and stored in a file."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from phema.shared.datasets.errors import DatasetError
from phema.shared.datasets.pictures import Dataset
from phema.shared.datasets.preparation.dataset_writer import write_file
from phema.shared.metrics.moments import FrechetError, Moments
from phema.shared.metrics.random_features import FEATURE_SPACE, NUM_FEATURES, RandomConvFeatures

_FORMAT = 1
_BATCH = 256


@dataclass(frozen=True)
class Statistics:
    """Moments, in float64, of the features of the training pictures of the dataset with this fingerprint."""

    feature_space: str
    moments: Moments
    fingerprint: str
    held_out: int
    """Number of pictures that are left out of the moments, like `dataset.held_out` of a run."""

    def describes(self, dataset: Dataset) -> bool:
        """Whether `measure` would compute the same for `dataset`."""
        wanted = (FEATURE_SPACE, dataset.info.fingerprint, len(dataset.held_out), len(dataset.train))
        return (self.feature_space, self.fingerprint, self.held_out, self.moments.count) == wanted


def measure(
    dataset: Dataset,
    *,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] = lambda done: None,
) -> Statistics:
    """Statistics of all training pictures, read in batches. Of latents, the means are used.

    `progress` gets the number of pictures done before each batch and at the end; it may raise to stop. Raises
    DatasetError.
    """
    features = RandomConvFeatures(dataset.channels, dataset.resolution, device)
    moments = Moments(NUM_FEATURES)
    for start in range(0, len(dataset.train), _BATCH):
        progress(start)
        images, _ = dataset.train.batch(np.arange(start, min(start + _BATCH, len(dataset.train))))
        moments.add(features(torch.from_numpy(images).to(device)).cpu().numpy())
    progress(len(dataset.train))
    return Statistics(FEATURE_SPACE, moments, dataset.info.fingerprint, len(dataset.held_out))


def save(statistics: Statistics, path: Path) -> None:
    """Write an NPZ file atomically. Raises DatasetError."""
    file = io.BytesIO()
    np.savez(
        file,
        format=_FORMAT,
        feature_space=statistics.feature_space,
        count=statistics.moments.count,
        mean=statistics.moments.mean,
        cov=statistics.moments.cov,
        fingerprint=statistics.fingerprint,
        held_out=statistics.held_out,
    )
    write_file(path, file.getvalue())


def load(path: Path) -> Statistics:
    """Read a file that `save` wrote. Raises DatasetError for any other content; nothing is unpickled."""
    try:
        with np.load(path, allow_pickle=False) as found:
            if int(found["format"]) != _FORMAT:
                raise DatasetError(f"statistics {path} have format {found['format']}; this version reads {_FORMAT}")
            return Statistics(
                str(found["feature_space"]),
                Moments.of(int(found["count"]), found["mean"], found["cov"]),
                str(found["fingerprint"]),
                int(found["held_out"]),
            )
    except DatasetError:
        raise
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, FrechetError) as error:
        raise DatasetError(f"statistics {path} cannot be read: {error}") from error


def statistics_path(dataset_path: str) -> Path:
    """Where workers look for the statistics of the folder or zip file at `dataset_path`."""
    return Path(dataset_path.rstrip("/") + ".stats.npz")


def load_matching(dataset: Dataset, dataset_path: str | None) -> Statistics | None:
    """The statistics stored next to the dataset, or None if there are none or they describe other pictures.

    Raises DatasetError if the file cannot be read.
    """
    if dataset_path is None or "://" in dataset_path or not statistics_path(dataset_path).exists():
        return None
    found = load(statistics_path(dataset_path))
    return found if found.describes(dataset) else None
