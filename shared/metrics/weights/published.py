"""Find the published weights of a feature extractor: a local path, an object of the store, or their download."""

from __future__ import annotations

import hashlib
import logging
import urllib.error
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from phema.shared.metrics.errors import ScoringError
from phema.shared.metrics.weights.weight_files import Unreadable, read_tensors, safetensors_bytes, tensors_of
from phema.shared.snapshots.errors import ObjectExists
from phema.shared.snapshots.stores.interface import ObjectStore
from phema.shared.snapshots.stores.object_keys import extractor_weights_key, extractor_weights_prefix

log = logging.getLogger(__name__)

WEIGHTS_SETTING = "PHEMA_EXTRACTOR_WEIGHTS"
_BLOCK = 2**22


@dataclass(frozen=True)
class PublishedWeights:
    """Weights that somebody else trained."""

    extractor: str
    files: tuple[str, ...]
    """Names under which the file is published; the first is the one of `url`."""
    url: str
    """Where it is downloaded from when it is found nowhere else."""


@dataclass(frozen=True)
class LoadedWeights:
    """Tensors by name, and the SHA-256 (hex) of the file in which they were published."""

    tensors: dict[str, Tensor]
    sha256: str
    where: str


def find_weights(published: PublishedWeights, path: Path | None, store: ObjectStore | None) -> LoadedWeights:
    """The weights from the first of: `path` (a file, or a folder of them), the store, torch's cache, their download.

    A pickled file is read with `weights_only` and kept in the store as safetensors, under its own SHA-256; later calls
    read that. Raises ScoringError if the weights are nowhere to be found or cannot be read, and SnapshotError.
    """
    if path is not None:
        return _from_file(_in_path(published, path), published, store)
    if store is not None and (found := _from_store(published, store)) is not None:
        return found
    return _from_file(_downloaded(published), published, store)


def _in_path(published: PublishedWeights, path: Path) -> Path:
    if path.is_file():
        return path
    if path.is_dir():
        names = (*published.files, f"{published.extractor}.safetensors", f"{published.extractor}.pth")
        if (found := next((path / name for name in names if (path / name).is_file()), None)) is not None:
            return found
        raise ScoringError(
            f"extractor {published.extractor} finds no weights in {path}: put {published.files[0]} there", "weights"
        )
    raise ScoringError(
        f"extractor {published.extractor} finds no weights: {path} does not exist; it must be the file "
        f"{published.files[0]} or its folder",
        "weights",
    )


def _from_file(path: Path, published: PublishedWeights, store: ObjectStore | None) -> LoadedWeights:
    try:
        sha256 = _sha256(path)
        if path.suffix == ".safetensors" or store is None:
            return LoadedWeights(read_tensors(path), sha256, str(path))
        key = extractor_weights_key(published.extractor, f"{sha256}.safetensors")
        if store.head(key) is None:
            _keep(store, key, safetensors_bytes(read_tensors(path)))
        return _converted(store, key)
    except (Unreadable, OSError) as error:
        raise ScoringError(f"weights {path} of extractor {published.extractor} cannot be read: {error}") from error


def _from_store(published: PublishedWeights, store: ObjectStore) -> LoadedWeights | None:
    """From a converted file, or from one that was put there under its published name."""
    folder = extractor_weights_prefix(published.extractor)
    keys = [info.key for info in store.list(folder)]
    converted = [key for key in keys if key.endswith(".safetensors") and len(Path(key).stem) == 64]
    if len(converted) > 1:
        raise ScoringError(
            f"extractor {published.extractor} has several weights in the store ({', '.join(converted)}); delete all "
            f"but one, or name one by {WEIGHTS_SETTING}",
            "weights",
        )
    if converted:
        return _converted(store, converted[0])
    for name in published.files:
        if (key := f"{folder}{name}") in keys:
            return _from_pickle(store, key, published)
    return None


def _from_pickle(store: ObjectStore, key: str, published: PublishedWeights) -> LoadedWeights:
    data = store.get(key)
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        tensors = tensors_of(data)
    except Unreadable as error:
        raise ScoringError(f"object {key} holds no weights of {published.extractor}: {error}", "weights") from error
    kept = extractor_weights_key(published.extractor, f"{sha256}.safetensors")
    _keep(store, kept, safetensors_bytes(tensors))
    return LoadedWeights(tensors, sha256, f"object {key}")


def _keep(store: ObjectStore, key: str, data: bytes) -> None:
    try:
        store.put(key, data)
    except ObjectExists:
        log.info("object %s was written by another process first", key)


def _converted(store: ObjectStore, key: str) -> LoadedWeights:
    """From an object that `_keep` wrote; its name holds the hash of the published file."""
    local = store.local_path(key)
    try:
        tensors = read_tensors(local) if local is not None else tensors_of(store.get(key))
    except Unreadable as error:
        raise ScoringError(
            f"object {key} cannot be read: {error}; delete it, and it is made again", "weights"
        ) from error
    return LoadedWeights(tensors, Path(key).stem, f"object {key}")


def _downloaded(published: PublishedWeights) -> Path:
    """The file in torch's cache of downloads; it is downloaded first if it is not there."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    if (found := next((folder / name for name in published.files if (folder / name).is_file()), None)) is not None:
        return found
    target = folder / published.files[0]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(published.url, str(target), progress=False)
    except (OSError, urllib.error.URLError, RuntimeError) as error:
        raise ScoringError(
            f"extractor {published.extractor} has no weights: put {published.files[0]} into the folder that "
            f"{WEIGHTS_SETTING} names, or into the store as "
            f"{extractor_weights_key(published.extractor, published.files[0])}; its download from {published.url} "
            f"failed ({error})",
            "weights",
        ) from error
    return target


def _sha256(path: Path) -> str:
    content = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            content.update(block)
    return content.hexdigest()
