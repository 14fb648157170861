"""Reads state dicts: safetensors files, torch checkpoints with `weights_only=True`, and folders of either's kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from phema.shared.snapshots.errors import CorruptObject
from phema.shared.snapshots.files.header import unstorable
from phema.shared.snapshots.files.snapshot_file import TORCH_DTYPES, read_path
from phema.shared.snapshots.foreign.checkpoint_pickles import check_checkpoint
from phema.shared.snapshots.foreign.dcp_folders import is_distributed_checkpoint, read_distributed
from phema.shared.snapshots.foreign.errors import ForeignFileRefused
from phema.shared.snapshots.foreign.torch_zips import stored_entries

_MAX_DIRECTORY_BYTES = 2**25
_MOST_SHARING, _MOST_TIED = 4, 64
"""Limits on the total size of the different views, and of all tensors, in multiples of the size of the file.

Tied weights have several names but are stored once. Without limits, a small file could hold views of a few elements
with huge shapes or thousands of names, and importing it would take any amount of memory."""
_STORABLE = frozenset(TORCH_DTYPES.values())


def read_state_dict(path: Path, key: str | None = None) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU. Checkpoints are loaded with `weights_only=True`.

    A checkpoint is a dict of tensors, or a dict that contains dicts of tensors. `key` chooses one of them; dots
    separate the keys of nested dicts. A folder is a checkpoint of `torch.distributed.checkpoint` (see `dcp_folders`),
    or holds one safetensors file. Raises ForeignFileRefused, or OSError if the file cannot be opened.
    """
    if is_distributed_checkpoint(path):
        return _checked(read_distributed(path, key), str(path))
    if path.is_dir():
        path = only_safetensors(path)
    if path.suffix == ".safetensors":
        try:
            read_path(path)  # refuses what would take torch minutes, such as very many tensors
            return _checked(load_file(path), str(path), path.stat().st_size)
        except (CorruptObject, SafetensorError) as error:
            raise ForeignFileRefused(str(path), f"it is not a safetensors file, or was cut off ({error})") from error
    with path.open("rb") as file:
        entries = stored_entries(file, str(path), max_directory_bytes=_MAX_DIRECTORY_BYTES)
        check_checkpoint(file, entries, str(path))
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of many types for malformed files
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ForeignFileRefused(str(path), f"it holds more than weights_only loading allows ({reason})") from error
    return _checked(_chosen(content, key, str(path)), str(path), path.stat().st_size)


def only_safetensors(folder: Path) -> Path:
    """The safetensors file of a folder. Raises ForeignFileRefused if there is none or several, as of large models."""
    files = sorted(path for path in folder.iterdir() if path.suffix == ".safetensors" and path.is_file())
    if len(files) != 1:
        raise ForeignFileRefused(str(folder), f"it holds {len(files)} safetensors files; one is allowed")
    return files[0]


def _chosen(content: Any, key: str | None, name: str) -> Mapping[Any, Any]:
    if key is not None:
        for part in key.split("."):
            content = content.get(part) if isinstance(content, Mapping) else None
        if not _is_state_dict(content):
            raise ForeignFileRefused(name, f"it has no dict of tensors under the key {key!r}")
        return content  # type: ignore[no-any-return]
    if _is_state_dict(content):
        return content  # type: ignore[no-any-return]
    found = [k for k, value in content.items() if _is_state_dict(value)] if isinstance(content, Mapping) else []
    if not found:
        raise ForeignFileRefused(name, "it holds no dict of tensors, by itself or under one of its keys")
    if len(found) > 1:
        raise ForeignFileRefused(name, f"it holds several dicts of tensors; choose with --key: {_keys(found)}")
    return content[found[0]]  # type: ignore[no-any-return]


def _keys(found: list[Any]) -> str:
    """List for the error message. Keys that are not texts are marked: --key cannot choose them."""
    return ", ".join(key[:100] if isinstance(key, str) else f"{key!r} (not a text)" for key in found[:20])


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(tensor, Tensor) for tensor in value.values())


def _checked(tensors: Mapping[Any, Tensor], name: str, size: int | None = None) -> dict[str, Tensor]:
    """The tensors, if they can be stored. `size` is that of their file; None if their bytes are known to be apart."""
    for key, tensor in tensors.items():
        if not isinstance(key, str) or not key:
            raise ForeignFileRefused(name, f"the name of one of its tensors is {key!r}, which is not a text")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.dtype not in _STORABLE or tensor.is_meta:
            raise ForeignFileRefused(name, f"its tensor {key!r} is {tensor.dtype} and {tensor.layout}, not storable")
    if (reason := unstorable({key: tuple(tensor.shape) for key, tensor in tensors.items()})) is not None:
        raise ForeignFileRefused(name, reason)
    if not any(tensor.is_floating_point() for tensor in tensors.values()):
        raise ForeignFileRefused(name, "none of its tensors is floating-point, so there are no weights to average")
    if size is None:
        return {key: tensor.detach() for key, tensor in tensors.items()}
    # A view that has several names counts once, so that layers may share their weights.
    views = {
        (t.untyped_storage().data_ptr(), t.storage_offset(), t.dtype, t.shape, t.stride()): t for t in tensors.values()
    }
    in_all = sum(tensor.nbytes for tensor in tensors.values())
    if sum(view.nbytes for view in views.values()) > _MOST_SHARING * size or in_all > _MOST_TIED * size:
        raise ForeignFileRefused(name, "its tensors repeat their elements: they are many times the size of the file")
    return {key: tensor.detach() for key, tensor in tensors.items()}
