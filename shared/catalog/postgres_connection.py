"""Connections to PostgreSQL that notice within seconds when the server has gone silent.

A server that is killed or refuses connections is noticed at once. A server that is frozen, or a network that drops
packets without a word, is noticed by the limits here: by TCP's own where nothing acknowledges the packets any more, and
by this process's where a proxy or a frozen server still does.
"""

from __future__ import annotations

import time
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from sqlalchemy import Engine, event

CONNECT_SECONDS = 4
"""Time limit for a new connection, per address of the server."""
TCP = {
    "keepalives": 1,
    "keepalives_idle": 5,  # seconds of silence before the first probe
    "keepalives_interval": 2,  # seconds between probes
    "keepalives_count": 3,
    "tcp_user_timeout": 6000,  # milliseconds for which sent data may stay unacknowledged (Linux)
}
"""Parameters of libpq. A URL may set others."""
GRACE_SECONDS = 1.0
"""The server ends a statement so long before this process gives it up, and says why."""
T = TypeVar("T")


class TimedConnection(psycopg.Connection[Any]):
    """Gives a statement up, and closes itself, when the server has not answered for `answer_seconds`."""

    answer_seconds = float("inf")

    def wait(self, gen: PQGen[T], *args: Any, **options: Any) -> T:
        return super().wait(self._limited(gen), *args, **options)

    def _limited(self, gen: PQGen[T]) -> PQGen[T]:
        """psycopg sends 0 into the generator whenever nothing has happened for a tenth of a second."""
        deadline = time.monotonic() + self.answer_seconds
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() > deadline:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(f"the server has not answered for {self.answer_seconds:g} seconds")
                wanted = gen.send(ready)
        except StopIteration as end:
            value: T = end.value
            return value


def limit_waiting(engine: Engine, answer_seconds: float) -> None:
    """Let every new connection of `engine` give up after `answer_seconds`, as the server's session does."""

    @event.listens_for(engine, "do_connect")
    def _connect(dialect: Any, record: Any, args: list[Any], parameters: dict[str, Any]) -> TimedConnection:
        given = {"connect_timeout": CONNECT_SECONDS, **TCP, **parameters}
        connection = TimedConnection.connect(*args, **given)
        connection.answer_seconds = answer_seconds + GRACE_SECONDS
        # Set in the session, since poolers refuse such parameters when a connection starts.
        milliseconds = str(int(1000 * answer_seconds))
        connection.autocommit = True
        # The second frees the locks of a process whose network has gone; its results are fenced anyway.
        connection.execute(
            "SELECT set_config('statement_timeout', %(time)s, false),"
            " set_config('idle_in_transaction_session_timeout', %(time)s, false)",
            {"time": milliseconds},
        )
        connection.autocommit = False
        return connection
