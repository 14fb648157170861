"""Load feature extractors, and what all of them can do once loaded."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor

from phema.shared.datasets import Dataset
from phema.shared.metrics.errors import ScoringError
from phema.shared.metrics.extractor import ExtractorIdentity
from phema.shared.metrics.extractor_registry import EXTRACTORS, unknown
from phema.shared.snapshots.stores.interface import ObjectStore


class FeatureExtractor(Protocol):
    """A loaded extractor."""

    @property
    def identity(self) -> ExtractorIdentity: ...

    def __call__(self, pictures: Tensor) -> Tensor:
        """Pictures float32 [n, C, H, W] in [-1, 1], on any device -> features float32 [n, num_features] on the CPU.

        On a CPU, the features of a picture are the same bits whichever pictures share the call.
        """


@dataclass(frozen=True)
class LoadRequest:
    """Where an extractor's weights may come from, and what it will see."""

    dataset: Dataset
    """Pictures that are scored, or their reference: decides channels and resolution."""
    store: ObjectStore | None
    """Keeps weights and trained classifiers for all processes."""
    weights_path: Path | None
    """Weight file, or folder of weight files."""
    device: torch.device | str


class _ExtractorModule(Protocol):
    def load(self, request: LoadRequest) -> FeatureExtractor: ...


def load_extractor(
    name: str,
    *,
    dataset: Dataset,
    store: ObjectStore | None = None,
    weights_path: Path | None = None,
    device: torch.device | str = "cpu",
) -> FeatureExtractor:
    """The extractor, ready to use; the last few stay loaded in this process.

    `weights_path` is a weight file or a folder of weight files. Raises ScoringError for an unknown name and for weights
    that are missing or wrong, and SnapshotError of the store.
    """
    if name not in EXTRACTORS:
        raise ScoringError(unknown(name), "extractor")
    where = (None if store is None else store.url, weights_path, str(device))
    key = (name, dataset.channels, dataset.resolution, *where)
    if key not in _loaded:
        module = cast(_ExtractorModule, import_module(EXTRACTORS[name].module))
        extractor = module.load(LoadRequest(dataset, store, weights_path, device))
        while len(_loaded) >= _MAX_LOADED:
            del _loaded[next(iter(_loaded))]
        _loaded[key] = extractor
    return _loaded[key]


_MAX_LOADED = 4
_loaded: dict[tuple[object, ...], FeatureExtractor] = {}
