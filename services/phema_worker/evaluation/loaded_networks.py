"""Networks that an actor keeps loaded: the parts of an evaluation follow one another and share their weights."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import torch
from pydantic import ValidationError

from phema.services.phema_worker.evaluation.tasks import Weights
from phema.shared.edm2.networks.denoiser import Denoiser
from phema.shared.recipes.run_config import RunConfig
from phema.shared.snapshots.errors import CorruptObject
from phema.shared.snapshots.files.network_loading import LoadedModel, load_model
from phema.shared.snapshots.stores.interface import ObjectStore
from phema.shared.snapshots.stores.verification import check_recorded
from phema.shared.validation_sentences import sentence

_KEPT_BYTES = 2**28
"""Weights beyond a network and its guide are kept up to this size in total."""
_ALWAYS_KEPT = 2
"""A network and its guide."""


class LoadedNetworks:
    """Loads denoisers from the store, in evaluation mode on `device`, and keeps the latest. One thread uses it."""

    def __init__(self, store: ObjectStore, device: torch.device) -> None:
        self._store, self._device = store, device
        self._kept: OrderedDict[str, tuple[Denoiser, int]] = OrderedDict()

    def get(self, weights: Weights) -> Denoiser:
        """The network with these weights. Raises CorruptObject unless the stored bytes have the recorded hash."""
        if weights.sha256 not in self._kept:
            data = self._store.get(weights.key)
            check_recorded(self._store, weights.key, hashlib.sha256(data).hexdigest(), weights.sha256)
            self._kept[weights.sha256] = on_device(load_model(data), self._device, weights.key), len(data)
        self._kept.move_to_end(weights.sha256)
        self._drop_old()
        return self._kept[weights.sha256][0]

    def _drop_old(self) -> None:
        while len(self._kept) > _ALWAYS_KEPT and sum(size for _, size in self._kept.values()) > _KEPT_BYTES:
            self._kept.popitem(last=False)


def on_device(model: LoadedModel, device: torch.device, key: str) -> Denoiser:
    """The network, moved to the device. Raises CorruptObject, which names the object `key`."""
    model.denoiser.to(device)
    if device.type == "cuda":  # CPUs compute in float32, GPUs in the precision of the run
        model.denoiser.precision = _config(model, key).precision
    return model.denoiser


def _config(model: LoadedModel, key: str) -> RunConfig:
    try:
        return RunConfig.model_validate(model.metadata.config)
    except ValidationError as error:
        problem = sentence(error.errors(include_url=False)[0])
        raise CorruptObject(f"object {key} holds no valid configuration: {problem}") from error
