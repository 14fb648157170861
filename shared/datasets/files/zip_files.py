"""The files in a zip file, read directly by offset. Nothing is extracted to disk."""

from __future__ import annotations

import errno
import io
import struct
import zipfile
import zlib
from array import array
from collections.abc import Sequence

from phema.shared.datasets.errors import DatasetError
from phema.shared.datasets.files.files import Blob, check_size, unreadable

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_SLACK = 64
"""Extra bytes per read: a local header may be longer than the directory says."""


class ZipFiles:
    """Files of a zip file (stored or deflated, zip64 too). Each `read` is one read of the blob and checks the CRC.

    The directory is read once. Per million pictures this takes seconds and about 600 MB of memory, for a moment.
    """

    stamps_content = True

    def __init__(self, blob: Blob) -> None:
        self.where, self.reads_in_flight = blob.where, blob.reads_in_flight
        self._blob = blob
        members = sorted(self._members(), key=lambda member: member.filename)
        self.names: Sequence[str] = [member.filename for member in members]
        for name, following in zip(self.names, self.names[1:], strict=False):
            if name == following:
                raise DatasetError(f"dataset {self.where} holds {name} twice")
        self._offsets = array("q", [member.header_offset for member in members])
        self._stored = array("q", [member.compress_size for member in members])
        self._sizes = array("q", [member.file_size for member in members])
        self._crcs = array("L", [member.CRC for member in members])
        self._methods = array("H", [member.compress_type for member in members])

    def size(self, position: int) -> int:
        return self._sizes[position]

    def stamp(self, position: int) -> str:
        return f"{self._sizes[position]} {self._crcs[position]:08x}"

    def read(self, position: int) -> bytes:
        check_size(self, position)
        data = self._unpacked(position, self._bytes(position))
        if len(data) != self._sizes[position] or zlib.crc32(data) != self._crcs[position]:
            raise unreadable(self, position, "its bytes are not those that the zip's directory describes")
        return data

    def _members(self) -> list[zipfile.ZipInfo]:
        try:
            with zipfile.ZipFile(io.BufferedReader(_Window(self._blob), 2**16)) as directory:
                members = [m for m in directory.infolist() if not m.is_dir() and not _is_ignored(m.filename)]
        except (
            zipfile.BadZipFile,
            zipfile.LargeZipFile,
            NotImplementedError,
            ValueError,
            EOFError,
            struct.error,
        ) as error:
            raise DatasetError(f"dataset {self.where} is no readable zip file: {error}") from error
        for member in members:
            if member.flag_bits & 1:
                raise DatasetError(f"{member.filename} in dataset {self.where} is encrypted; passwords are not taken")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DatasetError(
                    f"{member.filename} in dataset {self.where} has compression {member.compress_type}; "
                    "only stored and deflated files are read"
                )
        return members

    def _bytes(self, position: int) -> bytes:
        """The file's bytes as stored in the zip file, perhaps compressed."""
        offset, length = self._offsets[position], self._stored[position]
        if length > self._sizes[position] + self._sizes[position] // 1000 + 1024:  # deflate never grows by as much
            raise unreadable(self, position, f"it is stored in {length} bytes, more than it holds")
        expected = _LOCAL_HEADER.size + len(self.names[position].encode()) + _SLACK + length
        read = self._blob.read_at(offset, max(0, min(expected, self._blob.size - offset)))
        if len(read) < _LOCAL_HEADER.size or read[:4] != b"PK\3\4":
            raise unreadable(self, position, "its header in the zip is missing")
        *_, name_length, extra_length = _LOCAL_HEADER.unpack_from(read)
        start = _LOCAL_HEADER.size + name_length + extra_length
        if start + length > len(read):
            return self._blob.read_at(offset + start, length)
        return read[start : start + length]

    def _unpacked(self, position: int, data: bytes) -> bytes:
        if self._methods[position] == zipfile.ZIP_STORED:
            return data
        try:
            # One byte more than announced reveals that there are more, so a zip bomb is never unpacked.
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, self._sizes[position] + 1)
        except zlib.error as error:
            raise unreadable(self, position, str(error)) from error


class _Window(io.RawIOBase):
    """Adapts a blob to the seekable file from which `zipfile` reads the directory."""

    def __init__(self, blob: Blob) -> None:
        self._blob, self._at = blob, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._blob.size}[whence]
        if origin + offset < 0:
            raise OSError(errno.EINVAL, "before the beginning")  # like files do; zipfile relies on it
        self._at = origin + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        length = max(0, min(len(buffer), self._blob.size - self._at))
        buffer[:length] = self._blob.read_at(self._at, length) if length else b""
        self._at += length
        return length


def _is_ignored(name: str) -> bool:
    """Whether it is a hidden file, or one that macOS adds to zip files."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
