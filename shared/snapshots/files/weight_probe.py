"""A small sample of a snapshot's weights, from which a plan learns how much they move and how they are rounded.

The places depend on the number of weights alone, so that the probes of one run's snapshots can be compared. Torch-free.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from phema.shared.snapshots.files.header import DTYPE_CODES, ITEM_BYTES, Header, TensorEntry, is_average, parse_header

PROBE_WEIGHTS = 4096
_GOLDEN = 11400714819323198485
"""2^64 divided by the golden ratio: its multiples modulo 2^64 are spread evenly however many are taken."""

Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]


class Gatherer:
    """Takes a snapshot file's probe out of its bytes as they pass by: whoever reads all of them anyway gives `see`."""

    def __init__(self, header: Header) -> None:
        self._taken = _taken(header)
        # In the probe's order, which is that of names and not that of the file.
        places = np.concatenate([np.empty(0, np.int64), *(at.ravel() for _, at in self._taken)])
        self._order = np.argsort(places)
        self._sorted = places[self._order]
        self._bytes = np.empty(len(places), np.uint8)

    def see(self, start: int, block: memoryview) -> None:
        """`block` is what the file holds from offset `start` on."""
        first, last = np.searchsorted(self._sorted, [start, start + len(block)])
        self._bytes[self._order[first:last]] = np.frombuffer(block, np.uint8)[self._sorted[first:last] - start]

    def probe(self) -> bytes:
        """Up to PROBE_WEIGHTS averaged weights, as little-endian float32. Once the whole file was seen."""
        found, done = [np.empty(0, np.float32)], 0
        for dtype, places in self._taken:
            found.append(as_float32(self._bytes[done : done + places.size].tobytes(), dtype))
            done += places.size
        return np.concatenate(found).astype("<f4").tobytes()


def probe_of(data: bytes | memoryview) -> bytes:
    """The probe of a snapshot file in memory. Raises CorruptObject when it is none."""
    view = memoryview(data).cast("B")
    gatherer = Gatherer(parse_header(view, len(view), "in memory"))
    gatherer.see(0, view)
    return gatherer.probe()


def values(probe: bytes) -> Floats:
    """The weights of a probe."""
    return np.frombuffer(probe, dtype="<f4")


def _taken(header: Header) -> list[tuple[str, Places]]:
    """Of each averaged tensor its dtype, and [elements, bytes] where in the file those lie that belong to the probe."""
    buffers = header.metadata.buffers if header.metadata else ()
    entries = sorted((e for e in header.tensors if is_average(e.name, e.dtype, buffers)), key=lambda e: e.name)
    lasts = np.cumsum([_count(entry) for entry in entries], dtype=np.int64)
    chosen = _chosen(int(lasts[-1]) if entries else 0)
    taken = []
    for entry, last in zip(entries, lasts, strict=True):
        here = chosen[(chosen >= last - _count(entry)) & (chosen < last)] - (last - _count(entry))
        item = ITEM_BYTES[entry.dtype]
        taken.append((entry.dtype, header.data_start + entry.start + here[:, None] * item + np.arange(item)))
    return taken


def _count(entry: TensorEntry) -> int:
    return (entry.end - entry.start) // ITEM_BYTES[entry.dtype]


def _chosen(count: int) -> Places:
    """Of so many weights, in rising order, each once."""
    if count <= PROBE_WEIGHTS:
        return np.arange(count, dtype=np.int64)
    return np.array(sorted({((i * _GOLDEN) % 2**64) * count >> 64 for i in range(PROBE_WEIGHTS)}), dtype=np.int64)


def as_float32(data: bytes | memoryview, dtype: str) -> Floats:
    """Elements of a stored float dtype (safetensors' name) as float32."""
    if dtype == DTYPE_CODES["bfloat16"]:
        return (np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, dtype={"F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float32)
