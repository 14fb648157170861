"""A folder that one supervisor at a time owns, with a JSON file that tells others where its services are."""

from __future__ import annotations

import fcntl
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from phema.local_service.service import CannotStart


class StateFolder:
    """`document` and `lock` are file names in `path`. `owner` and `end_command` appear in error messages."""

    def __init__(self, path: Path, *, document: str, lock: str, owner: str, end_command: str) -> None:
        self.path = path
        self._document, self._lock = path / document, path / lock
        self._owner, self._end_command = owner, end_command

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Hold the lock for the length of the block; the document goes with it.

        Raises CannotStart when another process holds the lock, or the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = self._open_lock()
        except OSError as error:
            raise CannotStart(f"state folder {self.path} cannot be written: {error.strerror}") from error
        with lock:
            if not _locked(lock):
                raise CannotStart(
                    f"{self._owner} is already running on state folder {self.path}; stop it with {self._end_command}"
                )
            try:
                yield
            finally:
                self.remove_document()

    def write(self, document: dict[str, Any]) -> None:
        """Replace the document, which also gets the process id of this process as `pid`."""
        new = self._document.with_suffix(".new")
        new.write_text(json.dumps({"pid": os.getpid(), **document}, indent=2) + "\n")
        new.replace(self._document)

    def read(self) -> dict[str, Any] | None:
        """The document; None when no supervisor has written one. It outlives a killed supervisor."""
        try:
            document: dict[str, Any] = json.loads(self._document.read_text())
        except FileNotFoundError:
            return None
        return document

    def remove_document(self) -> None:
        self._document.unlink(missing_ok=True)

    def end_owner(self) -> bool:
        """Ask the supervisor that owns the folder to end, and wait until it has ended. False when none owns it."""
        document = self.read()
        if document is None:
            return False
        with self._open_lock() as lock:
            if _locked(lock):
                return False  # it was killed: the process id may be another process's by now
            os.kill(int(document["pid"]), signal.SIGTERM)
            fcntl.flock(lock, fcntl.LOCK_EX)
        return True

    def _open_lock(self) -> IO[str]:
        return self._lock.open("a")


def _locked(lock: IO[str]) -> bool:
    """Whether the lock could be taken."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
