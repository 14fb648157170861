"""Wakes processes that wait for something as soon as another process has committed it.

There are two doorbells. WORK rings when a transaction makes work available; services wait for it. CHANGES rings when a
transaction has written anything; an API with viewers waits for it. A transaction rings once, when it commits. A ring
may get lost, so listeners also look from time to time. PostgreSQL: LISTEN and NOTIFY. SQLite: each listener has a
named pipe in a folder beside the file.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

WORK = "work"
CHANGES = "changes"
CHANNEL = "phema_{name}"
"""Name of the channel of PostgreSQL."""
_FOLDERS = {WORK: "bells", CHANGES: "change-bells"}
"""Last part of the name of the folder with the pipes."""
_HIDDEN = "."
"""First letter of the name of a pipe that is not open yet."""


class Bell(Protocol):
    """What a listener waits for."""

    def fileno(self) -> int:
        """Becomes readable when somebody rings."""

    def drain(self) -> bool:
        """Whether somebody has rung since the last call. Raises the driver's errors when the connection broke."""


class Doorbell(Protocol):
    """The way from those who commit work to those who wait for it."""

    def ring_in(self, session: Session) -> None:
        """Ring when the session's transaction commits."""

    def ring_after(self) -> None:
        """Ring now: the transaction has committed."""

    def listening(self) -> Any:
        """A context manager that yields a Bell. Raises OSError, or the driver's errors, when there cannot be one."""


class PostgresDoorbell:
    def __init__(self, engine: Engine, name: str) -> None:
        self._engine, self._channel = engine, CHANNEL.format(name=name)

    def ring_in(self, session: Session) -> None:
        session.execute(text(f"SELECT pg_notify('{self._channel}', '')"))

    def ring_after(self) -> None:
        pass

    @contextmanager
    def listening(self) -> Iterator[Bell]:
        pooled = self._engine.raw_connection()
        connection: Any = pooled.driver_connection
        pooled.detach()
        try:
            connection.rollback()
            connection.autocommit = True
            connection.execute(f"LISTEN {self._channel}")
            yield _Notifications(connection)
        finally:
            # It belongs to no pool. The pool's own way of closing it first rolls back, and logs an error with its
            # traceback when the connection is lost.
            connection.close()


class _Notifications:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def fileno(self) -> int:
        return int(self._connection.fileno())

    def drain(self) -> bool:
        return bool(list(self._connection.notifies(timeout=0)))


class PipeDoorbell:
    def __init__(self, database: Path, name: str) -> None:
        self._folder = database.with_name(f"{database.name}-{_FOLDERS[name]}")

    def ring_in(self, session: Session) -> None:
        pass

    def ring_after(self) -> None:
        with suppress(OSError):  # nobody has ever listened
            for name in os.listdir(self._folder):
                if not name.startswith(_HIDDEN):
                    self._ring(self._folder / name)

    def _ring(self, pipe: Path) -> None:
        try:
            writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno == errno.ENXIO:  # its listener has died
                pipe.unlink(missing_ok=True)
            return
        try:
            if stat.S_ISFIFO(os.fstat(writer).st_mode):
                with suppress(BlockingIOError):  # it is full of rings that nobody has heard yet
                    os.write(writer, b"\n")
        finally:
            os.close(writer)

    @contextmanager
    def listening(self) -> Iterator[Bell]:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        name = uuid4().hex
        # A ring deletes pipes that nobody has open for reading, so this one is hidden until it is open.
        hidden, pipe = self._folder / f"{_HIDDEN}{name}", self._folder / name
        if not hasattr(os, "mkfifo"):
            raise OSError(errno.ENOSYS, "this operating system has no named pipes")
        os.mkfifo(hidden, 0o600)
        reader = os.open(hidden, os.O_RDONLY | os.O_NONBLOCK)
        # Without a writer of its own, the pipe would be readable for good after the first ring.
        writer = os.open(hidden, os.O_WRONLY | os.O_NONBLOCK)
        try:
            hidden.rename(pipe)
            yield _Pipe(reader)
        finally:
            pipe.unlink(missing_ok=True)
            os.close(writer)
            os.close(reader)


class _Pipe:
    def __init__(self, reader: int) -> None:
        self._reader = reader

    def fileno(self) -> int:
        return self._reader

    def drain(self) -> bool:
        try:
            return bool(os.read(self._reader, 2**16))
        except BlockingIOError:
            return False


class SilentDoorbell:
    """For SQLite's `file:` URIs: nobody is woken."""

    def ring_in(self, session: Session) -> None:
        pass

    def ring_after(self) -> None:
        pass

    @contextmanager
    def listening(self) -> Iterator[Bell]:
        raise OSError(errno.ENOSYS, "this catalog has no doorbell")
        yield


def doorbell(engine: Engine, database: Path | None, name: str) -> Doorbell:
    """The doorbell WORK or CHANGES of a catalog. `database`: SQLite's file, if it is one."""
    if engine.dialect.name == "postgresql":
        return PostgresDoorbell(engine, name)
    return SilentDoorbell() if database is None else PipeDoorbell(database, name)
