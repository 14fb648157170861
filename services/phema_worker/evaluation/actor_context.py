"""What an actor keeps between the tasks of evaluations: networks, datasets, extractors and references."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import torch

from phema.services.phema_worker.evaluation.loaded_networks import LoadedNetworks
from phema.services.phema_worker.evaluation.tasks import Identities
from phema.services.phema_worker.task_progress import TaskProgress
from phema.shared.catalog.content_keys import canonical
from phema.shared.datasets import Dataset, OpenRemote, open_dataset
from phema.shared.metrics.feature_extraction import FeatureExtractor, load_extractor
from phema.shared.metrics.reference import Reference
from phema.shared.metrics.reference_statistics import reference_of
from phema.shared.metrics.scoring import extractors_of
from phema.shared.recipes.evaluation_recipe import EvaluationRecipe
from phema.shared.recipes.run_config import RunConfig
from phema.shared.snapshots.stores.interface import ObjectStore

T = TypeVar("T")
_KEPT = 8
"""Datasets and extractors kept of each kind."""
_REFERENCE_BYTES = 2**29
"""References are kept up to this size in total; the latest always."""


class DatasetChanged(Exception):
    """The run's dataset is not the one with which the evaluation began. Another attempt begins anew."""


class _Kept(Generic[T]):
    """The latest values by key, at most `most` in total size."""

    def __init__(self, most: int = _KEPT, size: Callable[[T], int] = lambda value: 1) -> None:
        self._values: dict[str, T] = {}
        self._most, self._size = most, size

    def get(self, key: str, make: Callable[[], T]) -> T:
        if key not in self._values:
            made = make()
            while self._values and sum(map(self._size, self._values.values())) + self._size(made) > self._most:
                del self._values[next(iter(self._values))]
            self._values[key] = made
        return self._values[key]

    def forget(self, key: str | None = None) -> None:
        """Drop one value, or all."""
        if key is None:
            self._values.clear()
        self._values.pop(str(key), None)


class ActorContext:
    """One thread uses it. Everything is loaded when it is first needed.

    `weights_path`: weight file, or folder of weight files, of feature extractors.
    """

    def __init__(
        self, store: ObjectStore, device: torch.device, remote: OpenRemote | None, weights_path: Path | None
    ) -> None:
        self.store, self.device = store, device
        self.networks = LoadedNetworks(store, device)
        self._remote, self._weights_path = remote, weights_path
        self._datasets: _Kept[Dataset] = _Kept()
        self._extractors: _Kept[FeatureExtractor] = _Kept()
        self._references: _Kept[Reference] = _Kept(_REFERENCE_BYTES, _bytes_of)

    def current_dataset(self, config: RunConfig) -> Dataset:
        """The run's dataset as it is now, for a new evaluation. Raises DatasetError."""
        if config.dataset.path is not None:  # the built-in digits never change
            self._datasets.forget(_dataset_key(config))
        return self.dataset(config)

    def dataset(self, config: RunConfig, fingerprint: str | None = None) -> Dataset:
        """The run's dataset, checked against its network.

        Raises DatasetError, and DatasetChanged unless it has this `fingerprint`.
        """
        key = _dataset_key(config)
        dataset = self._datasets.get(key, lambda: open_dataset(config.dataset, remote=self._remote))
        if fingerprint not in (None, dataset.info.fingerprint):  # this actor may have opened it before it changed
            self._datasets.forget(key)
            dataset = self._datasets.get(key, lambda: open_dataset(config.dataset, remote=self._remote))
        if fingerprint not in (None, dataset.info.fingerprint):
            raise DatasetChanged(f"dataset {config.dataset.name} has changed since this evaluation began")
        dataset.check(config.network)
        return dataset

    def forget_extractors(self) -> None:
        """Load extractors anew when they are next needed, because their weights may have changed."""
        self._extractors.forget()

    def extractors(self, config: RunConfig, recipe: EvaluationRecipe) -> dict[str, FeatureExtractor]:
        """By name: the extractors that the recipe's metrics need. Raises ScoringError, DatasetError."""
        return {name: self._extractor(config, name) for name in extractors_of(recipe.metrics)}

    def reference(self, config: RunConfig, extractor: FeatureExtractor, watch: TaskProgress) -> Reference:
        """Statistics of the run's training pictures; computed and stored if missing.

        Raises DatasetError, ScoringError, HubUnreachable of the VAE, and Cancelled between two batches.
        """
        dataset = self.dataset(config)

        def make() -> Reference:
            watch.message = "reading training pictures"
            return reference_of(
                dataset,
                extractor,
                path=config.dataset.path,
                vae=config.dataset.vae,
                store=self.store,
                device=self.device,
                progress=lambda done: watch.check(),
            )

        return self._references.get(dataset.info.fingerprint + _extractor_key(config, extractor), make)

    def _extractor(self, config: RunConfig, name: str) -> FeatureExtractor:
        def make() -> FeatureExtractor:
            return load_extractor(
                name,
                dataset=self.dataset(config),
                store=self.store,
                weights_path=self._weights_path,
                device=self.device,
            )

        return self._extractors.get(self.dataset(config).info.fingerprint + _dataset_key(config) + name, make)


def identities_of(extractors: dict[str, FeatureExtractor]) -> Identities:
    return {name: extractor.identity.document() for name, extractor in extractors.items()}


def _dataset_key(config: RunConfig) -> str:
    return canonical(config.dataset.model_dump(mode="json"))


def _extractor_key(config: RunConfig, extractor: FeatureExtractor) -> str:
    return _dataset_key(config) + canonical(extractor.identity.document())


def _bytes_of(reference: Reference) -> int:
    features = 0 if reference.features is None else reference.features.nbytes
    return features + 8 * reference.moments.num_features**2
