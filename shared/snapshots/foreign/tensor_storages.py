"""Reads the torch storages inside a published pickle. phema checks their bytes before torch loads them."""

from __future__ import annotations

import io

import torch
from torch import Tensor

from phema.shared.snapshots.foreign.errors import ForeignFileRefused
from phema.shared.snapshots.foreign.pickle_reader import PickleReader
from phema.shared.snapshots.foreign.pickle_records import StorageReference, StoredTensor
from phema.shared.snapshots.foreign.published_allowlist import SERIALISED_STORAGE
from phema.shared.snapshots.foreign.torch_zips import read_entry, stored_entries

_ITEM_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
_DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_MAX_DIRECTORY_BYTES = 2**12


def read_tensor(stored: StoredTensor, name: str) -> Tensor:
    """A contiguous copy of the tensor in its stored dtype. `name` is what error messages call the file.

    Raises ForeignFileRefused unless its storage is the plain serialisation of one storage of the announced size, and
    unless the tensor lies inside the storage and does not overlap itself.
    """
    reference = _inspect(stored.storage.payload, name)
    _check_view(stored, reference.num_elements, name)
    try:
        loaded = torch.load(io.BytesIO(stored.storage.payload), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types; each means that the file is malformed
        raise ForeignFileRefused(name, f"torch cannot load a storage in it ({error})") from error
    data = torch.empty(0, dtype=_DTYPES[reference.dtype])
    if not isinstance(loaded, torch.storage.TypedStorage) or loaded.dtype != data.dtype:
        raise ForeignFileRefused(name, "a storage in it is not what its bytes announce")
    data.set_(loaded, stored.offset, stored.shape, stored.strides)
    return data.clone(memory_format=torch.contiguous_format)


def _inspect(payload: memoryview, name: str) -> StorageReference:
    """The announced type and size of a serialised storage, after checking that its bytes agree with them."""
    return _inspect_zip(payload, name) if bytes(payload[:2]) == b"PK" else _inspect_legacy(payload, name)


def _inspect_legacy(payload: memoryview, name: str) -> StorageReference:
    """Format: five pickle streams (magic number, version, host, storage, list of one key), element count, data."""
    reader = PickleReader(payload, f"{name}, in a storage,", SERIALISED_STORAGE)
    magic, version, host, reference, keys = (reader.load() for _ in range(5))
    if magic != _LEGACY_MAGIC or version != _LEGACY_PROTOCOL or type(host) is not dict:
        raise ForeignFileRefused(name, "a storage in it does not begin as torch's serialisation does")
    if host.get("little_endian") is not True:
        raise ForeignFileRefused(name, "a storage in it was written on a big-endian machine")
    if type(reference) is not StorageReference or keys != [reference.key]:
        raise ForeignFileRefused(name, "a storage in it is not the serialisation of one storage")
    data = payload[reader.position :]
    _check_length(reference, len(data) - 8, name)
    if int.from_bytes(data[:8], "little") != reference.num_elements:
        raise ForeignFileRefused(
            name,
            f"a storage in it announces {reference.num_elements:,} elements, its data another number",
        )
    return reference


def _inspect_zip(payload: memoryview, name: str) -> StorageReference:
    """Format: a zip file whose `data.pkl` refers to one entry with the data."""
    inside = f"{name}, in a storage,"
    file = io.BytesIO(payload)
    entries = stored_entries(file, inside, max_directory_bytes=_MAX_DIRECTORY_BYTES)
    stream = memoryview(read_entry(file, entries["data.pkl"], inside))
    if "byteorder" in entries and read_entry(file, entries["byteorder"], inside) != b"little":
        raise ForeignFileRefused(inside, "it was written on a big-endian machine")
    reader = PickleReader(stream, inside, SERIALISED_STORAGE)
    reference = reader.load()
    if type(reference) is not StorageReference or reader.position != len(stream):
        raise ForeignFileRefused(inside, "it is not the serialisation of one storage")
    if f"data/{reference.key}" not in entries:
        raise ForeignFileRefused(inside, f"it lacks its data {reference.key[:50]!r}")
    _check_length(reference, entries[f"data/{reference.key}"].file_size, name)
    return reference


def _check_length(reference: StorageReference, found: int, name: str) -> None:
    expected = reference.num_elements * _ITEM_BYTES[reference.dtype]
    if found != expected:
        raise ForeignFileRefused(
            name,
            f"a storage in it announces {reference.num_elements:,} elements of {reference.dtype}, {expected:,} bytes, "
            f"and {max(found, 0):,} are there",
        )


def _check_view(stored: StoredTensor, num_elements: int, name: str) -> None:
    """Raises ForeignFileRefused unless the tensor lies inside its storage and uses no element twice.

    A tensor does not overlap itself if, sorted by stride, each stride exceeds the reach of the dimensions before.
    """
    shape, strides = stored.shape, stored.strides
    end = stored.offset + (1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if 0 not in shape else 0)
    if end > num_elements:
        raise ForeignFileRefused(
            name, f"a tensor of shape {shape} in it reaches to element {end:,} of a storage of {num_elements:,}"
        )
    reach = 1
    for stride, size in sorted((s, n) for n, s in zip(shape, strides, strict=True) if n > 1):
        if stride < reach:
            raise ForeignFileRefused(name, f"a tensor of shape {shape} and strides {strides} in it overlaps itself")
        reach = stride * size
