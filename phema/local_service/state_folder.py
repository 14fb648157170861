"""A folder that one supervisor at a time owns, with a JSON file that tells others where its services are."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from phema.local_service.service import CannotStart

LOOK_SECONDS = 0.1
LOCK_SECONDS = 1.0
"""How long an owner tries to get the lock: clients and `end_owner` hold it for a moment to see whether it is free."""


class StateFolder:
    """`document` and `lock` are file names in `path`. `owner` and `end_command` appear in error messages.

    A request to end is a file in the folder, on which the owner signals itself. The process id in a document is never
    signalled: after a crash, it may be the id of another process.
    """

    def __init__(self, path: Path, *, document: str, lock: str, owner: str, end_command: str) -> None:
        self.path = path
        self._document, self._lock, self._request = path / document, path / lock, path / f"{lock}.end"
        self._owner, self._end_command = owner, end_command

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Hold the lock for the length of the block; the document goes with it.

        A new folder is readable by its owner alone. When another process asks the owner to end, the main thread gets
        SIGTERM. Raises CannotStart when another process holds the lock, or the folder cannot be written.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = self._lock.open("a")
        except OSError as error:
            raise CannotStart(f"state folder {self.path} cannot be written: {error.strerror}") from error
        with lock:
            if not _locked_within(lock, LOCK_SECONDS):
                raise CannotStart(
                    f"{self._owner} is already running on state folder {self.path}; stop it with {self._end_command}"
                )
            self._request.unlink(missing_ok=True)
            done = threading.Event()
            watcher = threading.Thread(target=self._obey, args=[done], name="end requests", daemon=True)
            watcher.start()
            try:
                yield
            finally:
                done.set()
                watcher.join()
                self.remove_document()
                self._request.unlink(missing_ok=True)

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
        try:
            lock = self._lock.open("a")
        except FileNotFoundError:  # there is no folder
            return False
        asked = False
        with lock:
            while not _locked(lock):
                # Again and again: an owner that has just started removes the requests of earlier times.
                self._request.touch()
                asked = True
                time.sleep(LOOK_SECONDS)
        return asked

    def _obey(self, done: threading.Event) -> None:
        while not done.wait(LOOK_SECONDS):
            if self._request.exists():
                # To the main thread, so that a call that waits for a server is interrupted.
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
                return


def _locked(lock: IO[str]) -> bool:
    """Whether the lock could be taken."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _locked_within(lock: IO[str], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not _locked(lock):
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_SECONDS)
    return True
