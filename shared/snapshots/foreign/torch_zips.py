"""Checks zip files as torch writes them: uncompressed, with a directory whose size is known before it is read."""

from __future__ import annotations

import zipfile
from typing import IO

from phema.shared.snapshots.foreign.errors import ForeignFileRefused

_END, _LOCATOR, _END64 = b"PK\5\6", b"PK\6\7", b"PK\6\6"
_END_BYTES, _TAIL_BYTES = 22, 22 + 20 + 56
_FIRST = b"PK\3\4"
_UNREADABLE = (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, OverflowError)
"""Errors that `zipfile` raises for broken archives."""
MAX_PICKLE_BYTES = 2**24
"""Limit for `data.pkl`, which describes the tensors. Their elements are separate entries."""


def stored_entries(file: IO[bytes], name: str, *, max_directory_bytes: int) -> dict[str, zipfile.ZipInfo]:
    """Entries by their names below the archive's one folder. Together they are no larger than the file.

    Raises ForeignFileRefused if the file is not a zip file, is cut off, compressed, encrypted, has a comment or bytes
    before it, or has a directory of more than `max_directory_bytes`. These rules ensure that every reader finds the
    same directory. (Python accepts bytes before an archive and shifts its offsets; torch does not shift them.)
    """
    size = file.seek(0, 2)
    file.seek(max(0, size - _TAIL_BYTES))
    tail = file.read(_TAIL_BYTES).rjust(_TAIL_BYTES, b"\0")
    end = tail[-_END_BYTES:]
    if end[:4] != _END or end[-2:] != b"\0\0":
        raise ForeignFileRefused(name, "it does not end as a zip file of torch, or was cut off")
    count, listed, start = (int.from_bytes(end[a:b], "little") for a, b in ((10, 12), (12, 16), (16, 20)))
    behind = size - _END_BYTES
    if tail[-42:-38] == _LOCATOR:
        behind = size - _TAIL_BYTES
        if tail[:4] != _END64 or int.from_bytes(tail[-34:-26], "little") != behind:
            raise ForeignFileRefused(name, "it is a zip file whose end is not at the position that it states")
        count, listed, start = (int.from_bytes(tail[a : a + 8], "little") for a in (32, 40, 48))
    if listed > max_directory_bytes:
        raise ForeignFileRefused(
            name, f"it is a zip file with {listed:,} bytes of names; at most {max_directory_bytes:,} are allowed"
        )
    file.seek(0)
    if file.read(4) != _FIRST or start + listed != behind:
        raise ForeignFileRefused(
            name, "it is a zip file with bytes before it, or whose directory is not at the position that it states"
        )
    file.seek(0)
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except _UNREADABLE as error:
        raise ForeignFileRefused(name, f"it is a zip file that cannot be read ({error})") from error
    by_name = {entry.filename.partition("/")[2]: entry for entry in entries}
    # torch looks entries up by their number, and ignores case.
    if not len({entry_name.lower() for entry_name in by_name}) == len(entries) == count:
        raise ForeignFileRefused(name, "it is a zip file with two entries of the same name")
    packed = any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries)
    if packed or sum(entry.file_size for entry in entries) > size:
        raise ForeignFileRefused(name, "it is a compressed zip file; torch writes uncompressed ones")
    if "data.pkl" not in by_name or by_name["data.pkl"].file_size > MAX_PICKLE_BYTES:
        raise ForeignFileRefused(name, f"it is a zip file without data.pkl of at most {MAX_PICKLE_BYTES:,} bytes")
    return by_name


def read_entry(file: IO[bytes], entry: zipfile.ZipInfo, name: str) -> bytes:
    """One entry's bytes. Raises ForeignFileRefused."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.read(entry)
    except _UNREADABLE as error:
        raise ForeignFileRefused(name, f"it is a zip file that cannot be read ({error})") from error
