"""Watches the catalog, past the tunnels, for anything that moves."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

import psycopg

from tests.chaos.cluster import Cluster

LOOK_SECONDS = 0.5
_STATE = """
SELECT (SELECT coalesce(sum(num_images), 0) FROM runs),
       (SELECT count(*) FROM jobs WHERE state IN ('succeeded', 'failed', 'cancelled')),
       (SELECT count(*) FROM snapshots), (SELECT coalesce(sum(progress), 0) FROM jobs)
"""
"""Images trained, jobs ended, snapshots stored, and the progress of jobs: any change is progress."""
_RUNNING = "SELECT kind, count(*) FROM jobs WHERE state = 'running' AND kind <> 'external' GROUP BY kind"

_UNFINISHED = "SELECT count(*) FROM jobs WHERE state NOT IN ('succeeded', 'failed', 'cancelled')"
_BETWEEN_PHASES = (
    "SELECT 1 FROM jobs WHERE kind IN ('evaluate', 'sweep') AND state = 'queued' AND started_at > 0 LIMIT 1"
)


class ProgressWatch:
    """Looks from a thread of its own between `start` and `stop`."""

    def __init__(self, cluster: Cluster) -> None:
        self._url = cluster.catalog_url
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look, name="progress")
        self.moved: list[float] = []
        """Monotonic times at which a change was seen."""

    def start(self) -> None:
        self.moved.append(time.monotonic())
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def silent_seconds(self) -> float:
        """Since the latest progress."""
        return time.monotonic() - self.moved[-1]

    def seconds_after(self, moment: float) -> float | None:
        """From a monotonic time to the next progress; None when there was none."""
        return next((moved - moment for moved in self.moved if moved > moment), None)

    def running(self) -> Counter[str] | None:
        """Number of running jobs by kind; None while the catalog does not answer."""
        rows = self.ask(_RUNNING)
        return None if rows is None else Counter(dict(rows))

    def unfinished_jobs(self) -> int | None:
        """Number of jobs that are in no terminal state; None while the catalog does not answer."""
        rows = self.ask(_UNFINISHED)
        return None if rows is None else int(rows[0][0])

    def between_phases(self) -> bool:
        """Whether a job that has done a part of its work waits in the queue for its next step."""
        return bool(self.ask(_BETWEEN_PHASES))

    def _look(self) -> None:
        before: Any = None
        while not self._stopping.wait(LOOK_SECONDS):
            found = self.ask(_STATE)
            if found is not None and found != before:
                if before is not None:
                    self.moved.append(time.monotonic())
                before = found

    def ask(self, query: str) -> list[Any] | None:
        """The rows of a query; None while the catalog does not answer."""
        try:
            options = "-c statement_timeout=3000"
            with psycopg.connect(self._url, connect_timeout=3, options=options, autocommit=True) as connection:
                return connection.execute(query).fetchall()
        except psycopg.Error:
            return None
