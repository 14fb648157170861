"""The log of a training attempt in the store: the trainer writes it while the attempt runs, the API reads it.

While the attempt runs, its log lies in pieces. Each piece is a write-once object whose key names the bytes that it
holds. The last piece grows by being replaced with a longer one. Once the attempt has ended, one object holds the whole
log, and the pieces are deleted. A process that dies between two of these steps leaves pieces that overlap, or pieces
beside the whole log; readers accept both.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from phema.shared.snapshots import ObjectExists, ObjectMissing, ObjectStore
from phema.shared.snapshots.stores.object_keys import attempt_log_key, log_piece_key, log_pieces_prefix

LARGEST_LOG = 2**24
"""Bytes of a log that are kept. Of a longer log, the end is kept."""
PIECE_BYTES = 2**18
"""A piece of this size is not replaced any more: the next bytes begin another one."""
OVERLAP_BYTES = 2**12
"""A reader finds its place in a log whose beginning was dropped by the last bytes that it has read."""
_POSITIONS = re.compile(r"/(\d{15})-(\d{15})\.log$")


class Piece(NamedTuple):
    """The bytes from `start` to `end` of a log."""

    start: int
    end: int


class LogEnd(NamedTuple):
    """New bytes of a log, and whether the log is complete."""

    data: bytes
    complete: bool


@dataclass
class AttemptLog:
    """The log of one attempt, for one reader or writer. Not thread-safe. Its methods raise the errors of the store."""

    store: ObjectStore
    run_id: str
    submission_id: str
    _read: int = 0
    _last_read: bytes = b""
    _pieces: list[Piece] | None = field(default=None)
    """Of a writer: what it has stored, and what it found at first."""

    def stored_bytes(self) -> int:
        """How much of the log of a running attempt has been stored, by this writer or an earlier one."""
        pieces = self._known_pieces()
        return pieces[-1].end if pieces else 0

    def write(self, log: bytes) -> None:
        """Store what is new in `log`, all that the running attempt has written so far. Whole lines only."""
        pieces = self._known_pieces()
        end = log.rfind(b"\n") + 1
        if end <= (pieces[-1].end if pieces else 0):
            return
        start = 0
        if pieces:
            last = pieces[-1]
            start = last.start if last.end - last.start < PIECE_BYTES else last.end
        start = max(start, end - LARGEST_LOG)
        with suppress(ObjectExists):  # of another trainer: the same bytes of the same log
            self.store.put(self._key(Piece(start, end)), log[start:end])
        pieces.append(Piece(start, end))
        for old in [one for one in pieces[:-1] if one.start >= start or one.end <= end - LARGEST_LOG]:
            self.store.delete(self._key(old))
            pieces.remove(old)

    def complete(self, log: bytes) -> None:
        """Store the whole log of an attempt that has ended, and delete the pieces. Safe to repeat."""
        if len(log) > LARGEST_LOG:
            log = log[-LARGEST_LOG:]
            log = log[log.find(b"\n") + 1 :]
        with suppress(ObjectExists):  # of another trainer
            self.store.put(attempt_log_key(self.run_id, self.submission_id), log)
        for piece in self._listed():
            self.store.delete(self._key(piece))

    def exists(self) -> bool:
        """Whether anything of the log is stored."""
        return self._whole_exists() or bool(self._listed())

    def read(self) -> LogEnd:
        """What was added since the last call; at first, all that is stored."""
        while True:
            if self._whole_exists():
                return LogEnd(self._advance(self._after_read(self._get_whole())), True)
            with suppress(ObjectMissing):  # replaced or completed since it was listed
                return LogEnd(self._read_pieces(), False)

    def tail(self, length: int) -> bytes:
        """About the last `length` bytes that are stored, without reading the rest."""
        whole = self.store.head(attempt_log_key(self.run_id, self.submission_id))
        if whole is not None:
            key, size = whole.key, whole.size
        elif pieces := self._listed():
            key, size = self._key(pieces[-1]), pieces[-1].end - pieces[-1].start
        else:
            return b""
        length = min(length, size)
        return self.store.read_range(key, size - length, length) if length else b""

    def _read_pieces(self) -> bytes:
        pieces, parts, position = self._listed(), [], self._read
        while ahead := [one for one in pieces if one.end > position]:
            overlapping = [one for one in ahead if one.start <= position]
            # A reader that is too slow, or comes late, begins at the oldest piece that is kept.
            piece = max(overlapping, key=lambda one: one.end) if overlapping else min(ahead)
            data = self.store.get(self._key(piece))
            parts.append(data[max(position - piece.start, 0) :])
            position = piece.end
        self._read = position
        return self._advance(b"".join(parts))

    def _after_read(self, whole: bytes) -> bytes:
        if (
            len(whole) >= self._read
            and whole[max(self._read - len(self._last_read), 0) : self._read] == self._last_read
        ):
            return whole[self._read :]
        # The beginning of a long log was dropped, so positions are others.
        found = whole.rfind(self._last_read)
        return whole if found < 0 else whole[found + len(self._last_read) :]

    def _advance(self, data: bytes) -> bytes:
        if data:
            self._last_read = (self._last_read + data)[-OVERLAP_BYTES:]
        return data

    def _whole_exists(self) -> bool:
        return self.store.head(attempt_log_key(self.run_id, self.submission_id)) is not None

    def _get_whole(self) -> bytes:
        return self.store.get(attempt_log_key(self.run_id, self.submission_id))

    def _known_pieces(self) -> list[Piece]:
        if self._pieces is None:
            self._pieces = self._listed()
        return self._pieces

    def _listed(self) -> list[Piece]:
        """In order of their positions."""
        keys = (one.key for one in self.store.list(log_pieces_prefix(self.run_id, self.submission_id)))
        found = (_POSITIONS.search(key) for key in keys)
        return sorted(Piece(int(one.group(1)), int(one.group(2))) for one in found if one is not None)

    def _key(self, piece: Piece) -> str:
        return log_piece_key(self.run_id, self.submission_id, piece.start, piece.end)
