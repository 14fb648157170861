"""Bytes objects that a function fills. Torch-free."""

from __future__ import annotations

import io
from collections.abc import Callable


def filled(length: int, fill: Callable[[memoryview], None]) -> bytes:
    """`length` bytes that `fill` has written, without the second copy that `bytes(bytearray)` makes."""
    if not length:
        return b""
    file = io.BytesIO()
    file.seek(length - 1)
    file.write(b"\0")
    with file.getbuffer() as view:
        fill(view)
    return file.getvalue()
