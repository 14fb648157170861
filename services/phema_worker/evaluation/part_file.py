"""The file of a part: features and classes of its pictures, and the pictures where they are kept. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from phema.shared.snapshots.errors import CorruptObject

_FEATURES = "features/"


@dataclass(frozen=True)
class PartContent:
    """`features`: by extractor name float32 [n, d]. `classes`: int64 [n], -1 without classes. `pictures`: uint8
    [n, C, H, W], or None where they are not kept."""

    features: dict[str, NDArray[np.float32]]
    classes: NDArray[np.int64]
    pictures: NDArray[np.uint8] | None


def encode_part(content: PartContent) -> bytes:
    tensors: dict[str, NDArray[np.generic]] = {
        f"{_FEATURES}{name}": np.ascontiguousarray(rows) for name, rows in content.features.items()
    }
    tensors["classes"] = content.classes
    if content.pictures is not None:
        tensors["pictures"] = np.ascontiguousarray(content.pictures)
    return save(tensors, metadata={"format": "phema-part-1"})


def decode_part(data: bytes, key: str) -> PartContent:
    """Raises CorruptObject for bytes that `encode_part` did not write."""
    try:
        tensors = load(data)
        features = {name.removeprefix(_FEATURES): rows for name, rows in tensors.items() if name.startswith(_FEATURES)}
        return PartContent(features, tensors["classes"], tensors.get("pictures"))
    except (SafetensorError, KeyError) as error:
        raise CorruptObject(f"object {key} is no part of an evaluation: {error}") from error
