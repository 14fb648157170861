"""The probe of a snapshot: a small sample of its weights. Plans compute from it how much the weights move and how large
their rounding errors are.

The sampled positions depend only on the number of weights, so the probes of a run's snapshots can be compared.
Torch-free.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from phema.shared.snapshots.files.header import DTYPE_CODES, ITEM_BYTES, Header, TensorEntry, is_average, parse_header

PROBE_WEIGHTS = 4096
_GOLDEN = 11400714819323198485
"""2^64 divided by the golden ratio: any number of its multiples modulo 2^64 is evenly spread."""

Floats = npt.NDArray[np.float32]
Positions = npt.NDArray[np.int64]


class ProbeCollector:
    """Collects the probe of a snapshot file while the caller reads the file for another purpose, block by block."""

    def __init__(self, header: Header) -> None:
        self._sampled = _sampled_bytes(header)
        # Offsets in the file, in the order of the probe. That is the order of names, not the order in the file.
        offsets = np.concatenate([np.empty(0, np.int64), *(at.ravel() for _, at in self._sampled)])
        self._order = np.argsort(offsets)
        self._sorted = offsets[self._order]
        self._bytes = np.empty(len(offsets), np.uint8)

    def add_block(self, start: int, block: memoryview) -> None:
        """Take the sampled bytes out of `block`, which begins at offset `start` of the file."""
        first, last = np.searchsorted(self._sorted, [start, start + len(block)])
        self._bytes[self._order[first:last]] = np.frombuffer(block, np.uint8)[self._sorted[first:last] - start]

    def probe(self) -> bytes:
        """Up to PROBE_WEIGHTS averaged weights, as little-endian float32. Call after all blocks were added."""
        found, done = [np.empty(0, np.float32)], 0
        for dtype, offsets in self._sampled:
            found.append(as_float32(self._bytes[done : done + offsets.size].tobytes(), dtype))
            done += offsets.size
        return np.concatenate(found).astype("<f4").tobytes()


def probe_of(data: bytes | memoryview) -> bytes:
    """The probe of a snapshot file in memory. Raises CorruptObject if the bytes are not a snapshot file."""
    view = memoryview(data).cast("B")
    collector = ProbeCollector(parse_header(view, len(view), "in memory"))
    collector.add_block(0, view)
    return collector.probe()


def probed_weights(probe: bytes) -> Floats:
    """The weights in a probe."""
    return np.frombuffer(probe, dtype="<f4")


def _sampled_bytes(header: Header) -> list[tuple[str, Positions]]:
    """For each averaged tensor: its dtype and the file offsets of the sampled bytes, shape [elements, item size]."""
    buffers = header.metadata.buffers if header.metadata else ()
    entries = sorted((e for e in header.tensors if is_average(e.name, e.dtype, buffers)), key=lambda e: e.name)
    ends = np.cumsum([_count(entry) for entry in entries], dtype=np.int64)
    chosen = _chosen_positions(int(ends[-1]) if entries else 0)
    sampled = []
    for entry, end in zip(entries, ends, strict=True):
        start = end - _count(entry)
        inside = chosen[(chosen >= start) & (chosen < end)] - start
        item = ITEM_BYTES[entry.dtype]
        sampled.append((entry.dtype, header.data_start + entry.start + inside[:, None] * item + np.arange(item)))
    return sampled


def _count(entry: TensorEntry) -> int:
    return (entry.end - entry.start) // ITEM_BYTES[entry.dtype]


def _chosen_positions(count: int) -> Positions:
    """Up to PROBE_WEIGHTS different positions below `count`, in rising order."""
    if count <= PROBE_WEIGHTS:
        return np.arange(count, dtype=np.int64)
    return np.array(sorted({((i * _GOLDEN) % 2**64) * count >> 64 for i in range(PROBE_WEIGHTS)}), dtype=np.int64)


def as_float32(data: bytes | memoryview, dtype: str) -> Floats:
    """Elements of a stored float dtype (safetensors' name) as float32."""
    if dtype == DTYPE_CODES["bfloat16"]:
        return (np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, dtype={"F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float32)
