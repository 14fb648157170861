"""A small sample of a snapshot's weights, from which a plan learns how much they move and how they are rounded.

The places depend on the number of weights alone, so that the probes of one run's snapshots can be compared. Torch-free.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from shared.snapshots.header import DTYPE_CODES, ITEM_BYTES, Header, TensorEntry, is_average, parse_header, read_header
from shared.snapshots.store import ObjectStore

PROBE_WEIGHTS = 4096
_BLOCK_BYTES = 2**22
_GOLDEN = 11400714819323198485
"""2^64 divided by the golden ratio: its multiples modulo 2^64 are spread evenly however many are taken."""

Floats = npt.NDArray[np.float32]
_Read = Callable[[int, int], memoryview]
"""Bytes of a file's data from one offset to another; valid until the next call."""


def probe_of(data: bytes | memoryview) -> bytes:
    """Up to PROBE_WEIGHTS averaged weights of a snapshot file in memory, as little-endian float32.

    Raises CorruptObject when it is none.
    """
    view = memoryview(data).cast("B")
    header = parse_header(view, len(view), "in memory")
    return _probe(header, lambda start, stop: view[header.data_start + start : header.data_start + stop])


def probe_stored(store: ObjectStore, key: str, *, size: int | None = None) -> bytes:
    """The same of a stored file, which is read once in bounded memory. Raises ObjectMissing, CorruptObject."""
    header = read_header(store, key, size=size)
    buffer = memoryview(bytearray(_BLOCK_BYTES))

    def read(start: int, stop: int) -> memoryview:
        block = buffer[: stop - start]
        store.read_into(key, header.data_start + start, block)
        return block

    return _probe(header, read)


def values(probe: bytes) -> Floats:
    """The weights of a probe."""
    return np.frombuffer(probe, dtype="<f4")


def _probe(header: Header, read: _Read) -> bytes:
    buffers = header.metadata.buffers if header.metadata else ()
    entries = [e for e in header.tensors if is_average(e.name, e.dtype, buffers)]
    entries.sort(key=lambda entry: entry.name)
    counts = np.array([(e.end - e.start) // ITEM_BYTES[e.dtype] for e in entries], dtype=np.int64)
    places = _places(int(counts.sum()))
    firsts = np.concatenate([[0], np.cumsum(counts)])
    taken = [
        _taken(entry, places[(places >= first) & (places < last)] - first, read)
        for entry, first, last in zip(entries, firsts, firsts[1:], strict=False)
    ]
    return np.concatenate([np.empty(0, np.float32), *taken]).astype("<f4").tobytes()


def _places(count: int) -> npt.NDArray[np.int64]:
    """In rising order, each once."""
    if count <= PROBE_WEIGHTS:
        return np.arange(count, dtype=np.int64)
    return np.array(sorted({((i * _GOLDEN) % 2**64) * count >> 64 for i in range(PROBE_WEIGHTS)}), dtype=np.int64)


def _taken(entry: TensorEntry, places: npt.NDArray[np.int64], read: _Read) -> Floats:
    """The tensor's elements at `places`, block by block."""
    item = ITEM_BYTES[entry.dtype]
    step = _BLOCK_BYTES // item
    found = []
    for start in range(0, (entry.end - entry.start) // item, step):
        here = places[(places >= start) & (places < start + step)] - start
        if not len(here):
            continue
        stop = min(start + step, (entry.end - entry.start) // item)
        found.append(as_float32(read(entry.start + start * item, entry.start + stop * item), entry.dtype)[here])
    return np.concatenate([np.empty(0, np.float32), *found])


def as_float32(data: bytes | memoryview, dtype: str) -> Floats:
    """Elements of a stored float dtype (safetensors' name) as float32."""
    if dtype == DTYPE_CODES["bfloat16"]:
        return (np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, dtype={"F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float32)
