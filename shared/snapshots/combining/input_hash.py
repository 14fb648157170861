"""Hashes an input while a pass reads it, so that verifying its bytes needs no second read. Torch-free."""

from __future__ import annotations

import hashlib
from typing import Self

from phema.shared.snapshots.files.header import Header, is_average
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.stores.interface import ObjectReader
from phema.shared.snapshots.stores.verification import check_recorded


class InputHash:
    """The SHA-256 of the first `position` bytes of one input.

    A pass gives the bytes it reads to `add`, in the order of the file where it can. `read_up_to` reads the bytes that
    the pass does not need, or needs later. Not thread-safe: one thread at a time adds bytes of one input.
    """

    def __init__(self, snapshot: StoredSnapshot) -> None:
        self._snapshot = snapshot
        self._sha256, self.position = hashlib.sha256(), 0

    @classmethod
    def of_header(cls, snapshot: StoredSnapshot, header: Header, prefix: bytes) -> Self:
        """Begin with what was read for the header. `prefix`: the first bytes of the file, at least the header."""
        buffers = header.metadata.buffers if header.metadata else ()
        averages = (e.start for e in header.tensors if is_average(e.name, e.dtype, buffers))
        begun = cls(snapshot)
        begun.add(0, memoryview(prefix)[: header.data_start + next(averages, 0)])
        return begun

    def copy(self) -> InputHash:
        """The same state, for another pass."""
        copied = InputHash(self._snapshot)
        copied._sha256, copied.position = self._sha256.copy(), self.position
        return copied

    def add(self, start: int, block: memoryview) -> None:
        """Take bytes from offset `start`, at most `position`. Bytes that were added before are ignored."""
        assert start <= self.position, "no gaps"
        new = block[self.position - start :]
        self._sha256.update(new)
        self.position += len(new)

    def read_up_to(self, store: ObjectReader, stop: int, buffer: memoryview) -> None:
        """Read the bytes from `position` to `stop` into the buffer, as much at a time as it holds, and add them."""
        while self.position < stop:
            part = buffer[: stop - self.position]
            store.read_into(self._snapshot.key, self.position, part)
            self.add(self.position, part)

    def check(self, store: ObjectReader, buffer: memoryview) -> None:
        """Add the rest of the file. Raises CorruptObject unless the file holds the bytes that were written."""
        self.read_up_to(store, self._snapshot.size, buffer)
        found, snapshot = self._sha256.hexdigest(), self._snapshot
        check_recorded(store, snapshot.key, found, snapshot.sha256)
