"""The snapshot file: a safetensors file whose header names the run, time and profile of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load as load_bytes
from safetensors.torch import load_file
from torch import Tensor

from phema.shared.snapshots.files.header import (
    DTYPE_CODES,
    Header,
    SnapshotMetadata,
    arrange,
    build_header,
    header_length,
    parse_header,
    read_header,
    unstorable,
)
from phema.shared.snapshots.files.weight_probe import ProbeCollector

__all__ = [
    "DTYPE_NAMES",
    "TORCH_DTYPES",
    "Header",
    "SnapshotMetadata",
    "encode",
    "load_tensors",
    "read_header",
    "read_path",
]

TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""PyTorch's dtype by safetensors' name."""
DTYPE_NAMES = {dtype: code for code, dtype in TORCH_DTYPES.items()}
"""Safetensors' name by PyTorch's dtype."""


def encode(tensors: Mapping[str, Tensor], metadata: SnapshotMetadata, *, with_probe: bool = False) -> bytes:
    """The bytes of a snapshot file. Weights are cast to `metadata.dtype`; integers and buffers are stored exactly.

    `with_probe`: the header carries a sample of the weights, for plans that are made without a catalog. The bytes
    depend only on the arguments. Raises ValueError if the name of a buffer is unknown, if a
    weight is too large for the dtype, and if a file cannot hold such tensors.
    """
    if (reason := unstorable({name: tuple(tensor.shape) for name, tensor in tensors.items()})) is not None:
        raise ValueError(reason)
    unknown = set(metadata.buffers) - set(tensors)
    if unknown:
        raise ValueError(f"buffers names {sorted(unknown)[0]!r}, which is not among the {len(tensors)} tensors")
    stored = {name: _stored(name, tensor, metadata) for name, tensor in tensors.items()}
    entries = arrange(((name, DTYPE_NAMES[t.dtype], tuple(t.shape)) for name, t in stored.items()), metadata.buffers)
    probe = b""
    if with_probe:
        collector = ProbeCollector(Header(metadata, entries, data_start=0))
        for entry in entries:
            collector.add_block(entry.start, _raw(stored[entry.name]))
        probe = collector.probe()
    return b"".join([build_header(metadata, entries, probe), *(_raw(stored[entry.name]) for entry in entries)])


def load_tensors(source: Path | str | bytes) -> dict[str, Tensor]:
    """Every tensor of a snapshot file, given by path or content, on the CPU in its stored dtype.

    Raises CorruptObject if the file is truncated or is not a snapshot file.
    """
    if isinstance(source, bytes):
        parse_header(source, len(source), "in memory")
        return load_bytes(source)
    read_path(Path(source))
    return load_file(source)


def read_path(path: Path) -> Header:
    """Header of a snapshot file on disk. Raises CorruptObject, or OSError if the file cannot be opened."""
    with path.open("rb") as file:
        first, size = file.read(8), path.stat().st_size
        return parse_header(first + file.read(header_length(first, size, str(path))), size, str(path))


def _stored(name: str, tensor: Tensor, metadata: SnapshotMetadata) -> Tensor:
    tensor = tensor.detach()
    if tensor.is_floating_point() and name not in metadata.buffers:
        cast = tensor.to(TORCH_DTYPES[DTYPE_CODES[metadata.dtype]])
        if cast.dtype != tensor.dtype and bool((cast.isinf() & tensor.isfinite()).any()):
            advice = "" if metadata.dtype == "float32" else "; store this run as float32"
            limit = torch.finfo(cast.dtype).max
            raise ValueError(f"tensor {name} holds values beyond {metadata.dtype}'s {limit:g}{advice}")
        tensor = cast
    if tensor.dtype not in DTYPE_NAMES:
        raise ValueError(f"tensor {name} has dtype {tensor.dtype}, which a snapshot file cannot hold")
    return tensor.cpu().contiguous()


def _raw(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data
