"""Reads the tensors of a `torch.distributed.checkpoint` folder, whole, on the CPU, and nothing else in it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from phema.shared.snapshots.foreign.checkpoint_pickles import check_checkpoint
from phema.shared.snapshots.foreign.dcp_metadata import (
    METADATA,
    DistributedCheckpoint,
    DistributedTensor,
    StoredPart,
    read_metadata,
)
from phema.shared.snapshots.foreign.errors import ForeignFileRefused
from phema.shared.snapshots.foreign.torch_zips import stored_entries

_MAX_DIRECTORY_BYTES = 2**12
_MOST_NAMED = 20
"""Number of groups that an error names."""


def is_distributed_checkpoint(folder: Path) -> bool:
    return (folder / METADATA).is_file()


def read_distributed(folder: Path, key: str | None = None) -> dict[str, Tensor]:
    """The tensors of one state dict of the checkpoint, by name. Bytes and other objects in it are left out.

    `key` is the key of the state dict, such as "model", or the full names of the tensors with one `*` in place of each
    tensor's own name, such as "optimizer.state.*.exp_avg". "*" alone stands for the tensors that lie in no dict. None
    is allowed if there is only one choice. Raises ForeignFileRefused, or OSError.
    """
    found = read_metadata(folder)
    chosen = _chosen(found, key, str(folder))
    _check_places(folder, chosen)
    return {name: _read(folder, tensor, name) for name, tensor in chosen.items()}


def _chosen(found: DistributedCheckpoint, key: str | None, folder: str) -> dict[str, DistributedTensor]:
    """The wanted tensors by their names in the state dict."""
    groups = sorted(set(found.groups.values()))
    if key is None:
        if len(groups) != 1:
            shown = ", ".join(group or "*" for group in groups[:_MOST_NAMED])
            raise ForeignFileRefused(folder, f"it holds several dicts of tensors; choose with --key: {shown or 'none'}")
        [key] = groups
        key = key or "*"
    if key.count("*") > 1:
        raise ForeignFileRefused(folder, f"the key {key!r} has several *; one is allowed")
    before, star, after = key.partition("*")
    if key == "*":
        chosen = {name: tensor for name, tensor in found.tensors.items() if not found.groups[name]}
    elif star:
        chosen = {
            name[len(before) : len(name) - len(after)]: tensor
            for name, tensor in found.tensors.items()
            if name.startswith(before) and name.endswith(after) and len(name) > len(before) + len(after)
        }
    else:
        chosen = {
            name.removeprefix(f"{key}."): tensor for name, tensor in found.tensors.items() if name.startswith(f"{key}.")
        }
    if not chosen:
        raise ForeignFileRefused(folder, f"it has no tensors under the key {key!r}")
    return chosen


def _check_places(folder: Path, chosen: Mapping[str, DistributedTensor]) -> None:
    """Raises ForeignFileRefused unless the parts lie in the files, and do not share their bytes.

    Together they are therefore not larger than the files, and no tensor is larger than its parts.
    """
    parts = [(part, tensor) for tensor in chosen.values() for part in tensor.parts]
    sizes: dict[str, int] = {}
    for part, tensor in parts:
        if part.file not in sizes:
            path = folder / part.file
            if not path.is_file():
                raise ForeignFileRefused(str(folder), f"its file {part.file} is missing")
            sizes[part.file] = path.stat().st_size
        if part.start + part.length > sizes[part.file]:
            raise ForeignFileRefused(str(folder / part.file), "it was cut off: a tensor reaches beyond its end")
        if prod(part.shape) * _dtype(tensor).itemsize > part.length:
            raise ForeignFileRefused(str(folder), "a tensor in it has more elements than are stored")
    end = dict.fromkeys(sizes, 0)
    for part, _ in sorted(parts, key=lambda entry: (entry[0].file, entry[0].start)):
        if part.start < end[part.file]:
            raise ForeignFileRefused(str(folder), "two of its tensors share their bytes")
        end[part.file] = part.start + part.length


def _read(folder: Path, tensor: DistributedTensor, name: str) -> Tensor:
    """The whole tensor. Raises ForeignFileRefused unless every element is stored exactly once."""
    result = torch.empty(tensor.shape, dtype=_dtype(tensor))
    filled = torch.zeros(tensor.shape, dtype=torch.bool)
    for part in tensor.parts:
        region = tuple(slice(start, start + size) for start, size in zip(part.offsets, part.shape, strict=True))
        if bool(filled[region].any()):
            raise ForeignFileRefused(str(folder), f"parts of its tensor {name[:200]!r} overlap")
        result[region] = _part(folder, part, tensor, name)
        filled[region] = True
    return result


def _part(folder: Path, part: StoredPart, tensor: DistributedTensor, name: str) -> Tensor:
    path = folder / part.file
    with path.open("rb") as file:
        file.seek(part.start)
        content = io.BytesIO(file.read(part.length))
    inside = f"{path}, in tensor {name[:200]!r},"
    entries = stored_entries(content, inside, max_directory_bytes=_MAX_DIRECTORY_BYTES)
    check_checkpoint(content, entries, inside)
    content.seek(0)
    try:
        loaded: Any = torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of many types for malformed files
        raise ForeignFileRefused(inside, f"torch cannot load it ({type(error).__name__})") from error
    if not isinstance(loaded, Tensor) or loaded.layout != torch.strided or loaded.is_meta:
        raise ForeignFileRefused(inside, "it is not a tensor")
    if tuple(loaded.shape) != part.shape or loaded.dtype != _dtype(tensor):
        raise ForeignFileRefused(inside, f"it is {loaded.dtype} of shape {tuple(loaded.shape)}, not what is announced")
    return loaded.detach()


def _dtype(tensor: DistributedTensor) -> torch.dtype:
    found: torch.dtype = getattr(torch, tensor.dtype)
    return found
