"""Read weight files without executing code in them: safetensors, and pickles with `weights_only`."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor


class Unreadable(ValueError):
    """The file holds no plain dictionary of tensors. The message completes "… cannot be read: "."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name, mapped from the file where possible. Raises Unreadable, OSError."""
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            raise Unreadable(str(error)) from error
    return _plain(path, mapped=zipfile.is_zipfile(path))


def tensors_of(data: bytes) -> dict[str, Tensor]:
    """As `read_tensors`, from bytes of either kind. Raises Unreadable."""
    if not data.startswith(b"PK") and not data.startswith(b"\x80"):
        try:
            return safetensors.torch.load(data)
        except safetensors.SafetensorError as error:
            raise Unreadable(str(error)) from error
    return _plain(io.BytesIO(data), mapped=False)


def safetensors_bytes(tensors: dict[str, Tensor]) -> bytes:
    """A safetensors file; equal tensors give equal bytes."""
    data: bytes = safetensors.torch.save({name: tensor.contiguous() for name, tensor in sorted(tensors.items())})
    return data


def _plain(file: Any, *, mapped: bool) -> dict[str, Tensor]:
    try:
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise Unreadable(" ".join(str(error).split())[:200]) from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise Unreadable("it holds other things than tensors by name")
    return {str(name): tensor.detach() for name, tensor in found.items()}
