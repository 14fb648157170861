"""Bytes to be stored, together with their SHA-256. Torch-free.

The key of a snapshot contains the SHA-256 of the file, so the caller hashes the bytes before a store sees them. Passing
`HashedBytes` to the store saves the store from hashing the same bytes again.
"""

from __future__ import annotations

import hashlib

Data = bytes | bytearray | memoryview


class HashedBytes:
    """Bytes and their SHA-256, which is computed here and nowhere else. Nobody may change the bytes afterwards."""

    def __init__(self, data: Data) -> None:
        self.view = memoryview(data).cast("B").toreadonly()
        self.sha256 = hashlib.sha256(self.view).hexdigest()
        """Hexadecimal."""

    def __len__(self) -> int:
        return len(self.view)


def hashed(data: Data | HashedBytes) -> HashedBytes:
    """The data with its SHA-256. Hashes only if this was not done before."""
    return data if isinstance(data, HashedBytes) else HashedBytes(data)
