"""Measure reference statistics of a dataset, and keep them in the store and in files."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phema.shared.datasets.errors import DatasetError
from phema.shared.datasets.pictures import Dataset
from phema.shared.datasets.preparation.dataset_writer import write_file
from phema.shared.metrics.errors import ScoringError
from phema.shared.metrics.extractor import ExtractorIdentity
from phema.shared.metrics.extractor_registry import EXTRACTORS
from phema.shared.metrics.feature_extraction import FeatureExtractor
from phema.shared.metrics.moments import FrechetError, Moments
from phema.shared.metrics.reference import MAX_FEATURES, Reference
from phema.shared.snapshots.errors import CorruptObject, ObjectExists, ObjectMissing
from phema.shared.snapshots.stores.interface import ObjectStore
from phema.shared.snapshots.stores.object_keys import reference_key

_FORMAT = 2
_BATCH = 256
_UNREADABLE = (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, FrechetError)

Progress = Callable[[int], None]
"""Gets the number of pictures done before each batch and at the end; it may raise to stop."""


def _silent(done: int) -> None:
    """No progress is wanted."""


def measure(
    dataset: Dataset,
    extractor: FeatureExtractor,
    *,
    vae: str | None = None,
    device: torch.device | str = "cpu",
    progress: Progress = _silent,
) -> Reference:
    """Statistics of all training pictures, read in batches. Of latents, the means are used.

    `vae` decodes latents on `device` for an extractor that sees pictures; others ignore it. Raises DatasetError,
    HubUnreachable of the VAE, and ScoringError for latents without `vae`.
    """
    vae = decoder_of(dataset, extractor.identity, vae)
    if vae is not None:
        from phema.shared.datasets.preparation.vae import decode

    count = len(dataset.train)
    moments = Moments(extractor.identity.num_features)
    kept = _evenly_spread(count, MAX_FEATURES)
    features = np.empty((len(kept), extractor.identity.num_features), np.float32)
    for start in range(0, count, _BATCH):
        progress(start)
        numbers = np.arange(start, min(start + _BATCH, count))
        pictures = torch.from_numpy(dataset.train.batch(numbers)[0])
        if vae is not None:
            pictures = decode(pictures, vae, device)
        rows = extractor(pictures).numpy()
        moments.add(rows)
        first, last = np.searchsorted(kept, [start, start + len(numbers)])
        features[first:last] = rows[kept[first:last] - start]
    progress(count)
    held_out = len(dataset.held_out)
    return Reference(extractor.identity, dataset.info.fingerprint, held_out, moments, features, count, vae)


def decoder_of(dataset: Dataset, identity: ExtractorIdentity, vae: str | None) -> str | None:
    """The VAE that must decode the dataset for the extractor; None for pictures, or if it takes latents as they are.

    Raises ScoringError if one is needed and `vae` is None.
    """
    if dataset.info.encoding != "latents" or EXTRACTORS[identity.name].sees_latents:
        return None
    if vae is None:
        raise ScoringError(
            f"extractor {identity.name} sees pictures, but {dataset.name} holds latents; name the VAE that decodes them"
        )
    return vae


def reference_of(
    dataset: Dataset,
    extractor: FeatureExtractor,
    *,
    path: str | None = None,
    vae: str | None = None,
    store: ObjectStore | None = None,
    device: torch.device | str = "cpu",
    progress: Progress = _silent,
) -> Reference:
    """The reference of a dataset: from the file next to it at `path`, from the store, or measured and then stored.

    All processes with one store use the same bytes. Raises the errors of `measure`, and SnapshotError of the store.
    """
    identity = extractor.identity
    vae = decoder_of(dataset, identity, vae)
    if path is not None and "://" not in path and (file := statistics_path(path, identity.name)).exists():
        found = load(file)
        if _describes(found, dataset, identity, vae):
            return found
    if store is None:
        return measure(dataset, extractor, vae=vae, device=device, progress=progress)
    key = _key(dataset, identity, vae)
    try:
        return _stored(store, key)
    except ObjectMissing:
        measured = measure(dataset, extractor, vae=vae, device=device, progress=progress)
    try:
        store.put(key, _bytes(measured))
    except ObjectExists:  # another process measured it at the same time, on a machine that rounds differently
        return _stored(store, key)
    return measured


def _stored(store: ObjectStore, key: str) -> Reference:
    """Raises ObjectMissing, and CorruptObject for damaged bytes: an NPZ file holds a checksum of each array."""
    data = store.get(key)
    try:
        return _read(data, f"object {key}")
    except DatasetError as error:
        raise CorruptObject(f"{error}; delete it, and it is measured again") from error


def save(reference: Reference, path: Path) -> None:
    """Write an NPZ file atomically. Raises DatasetError if it cannot be written."""
    write_file(path, _bytes(reference))


def load(path: Path) -> Reference:
    """Read a file that `save` wrote, or published statistics with the arrays `mu` [d] and `sigma` [d, d].

    Raises DatasetError for any other content; nothing is unpickled.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"statistics {path} cannot be read: {error.strerror}") from error
    return _read(data, f"statistics {path}")


def statistics_path(dataset_path: str, extractor: str) -> Path:
    """Where workers look for the statistics of the folder or zip file at `dataset_path`."""
    middle = "" if extractor == "random" else f".{extractor}"
    return Path(f"{dataset_path.rstrip('/')}{middle}.stats.npz")


def _evenly_spread(count: int, most: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """At most `most` of `count` numbers from 0, ascending."""
    return np.arange(count) if count <= most else np.arange(most) * count // most


def _describes(found: Reference, dataset: Dataset, identity: ExtractorIdentity, vae: str | None) -> bool:
    """Whether `measure` would compute the same."""
    wanted = (identity, dataset.info.fingerprint, len(dataset.held_out), len(dataset.train), vae)
    return (found.identity, found.fingerprint, found.held_out, found.count, found.vae) == wanted


def _key(dataset: Dataset, identity: ExtractorIdentity, vae: str | None) -> str:
    content = [_FORMAT, dataset.info.fingerprint, len(dataset.held_out), len(dataset.train), identity.document(), vae]
    return reference_key(identity.name, hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest())


def _bytes(reference: Reference) -> bytes:
    """An NPZ file. Equal references give equal bytes."""
    file = io.BytesIO()
    document = {
        "identity": None if reference.identity is None else reference.identity.document(),
        "fingerprint": reference.fingerprint,
        "held_out": reference.held_out,
        "count": reference.count,
        "vae": reference.vae,
    }
    np.savez(
        file,
        allow_pickle=False,
        format=np.array(_FORMAT),
        document=np.array(json.dumps(document, sort_keys=True)),
        mean=reference.moments.mean,
        scatter=reference.moments.scatter,
        features=np.zeros((0, 0), np.float32) if reference.features is None else reference.features,
    )
    return file.getvalue()


def _read(data: bytes, name: str) -> Reference:
    """The content of an NPZ file. Raises DatasetError."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            if "mu" in found and "sigma" in found:
                # The number of pictures is not known; with 2, scatter and covariance are equal.
                return Reference(None, "", 0, Moments.of(2, found["mu"], found["sigma"]), None, 0)
            if int(found["format"]) != _FORMAT:
                raise DatasetError(
                    f"{name} has format {found['format']}; this version reads {_FORMAT}: write it again with "
                    "`phema dataset stats`"
                )
            document = json.loads(str(found["document"]))
            features = found["features"]
            return Reference(
                identity=ExtractorIdentity.of(document["identity"]),
                fingerprint=document["fingerprint"],
                held_out=document["held_out"],
                moments=Moments.of(document["count"], found["mean"], found["scatter"]),
                features=features if features.size else None,
                count=document["count"],
                vae=document["vae"],
            )
    except DatasetError:
        raise
    except _UNREADABLE as error:
        raise DatasetError(f"{name} cannot be read: {error}") from error
