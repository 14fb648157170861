"""Logs of training attempts, from the store. The trainer writes them there, because the API knows no Ray."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass

import anyio
import anyio.to_thread
from fastapi import Request

from phema.services.api.http.dependencies import Services
from phema.services.api.http.problems import NotFound
from phema.shared.catalog import CatalogError, JobKind, Transaction
from phema.shared.service_runtime.attempt_logs import AttemptLog, LogEnd
from phema.shared.snapshots import SnapshotError

POLL_SECONDS = 1.0
"""Time between two looks at the store for a log that is followed."""
KEEPING_SECONDS = 60.0
"""How long a reader waits for the whole log after an attempt has ended. The trainer usually takes seconds."""
TAIL_BYTES = 2**14
"""Of the last lines that a page shows."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoggedAttempt:
    """An attempt at a training, and when it ended, in seconds since the epoch."""

    job_id: str
    run_id: str
    number: int
    submission_id: str
    ended_at: float | None

    @property
    def runs_or_just_ended(self) -> bool:
        return self.ended_at is None or time.time() - self.ended_at < KEEPING_SECONDS


def find_attempt(tx: Transaction, job_id: str, number: int | None) -> LoggedAttempt:
    """Attempt `number` at the job; None: the latest. Raises NotFound, and catalog.NotFound for an unknown job."""
    job = tx.jobs.get(job_id)
    if job.kind is not JobKind.TRAIN or job.run_id is None:
        raise NotFound(
            f"job {job_id} is of kind {job.kind}, and only attempts of kind train have logs of their own; lines about "
            "other jobs are in the log of the phema worker"
        )
    attempts = {one.number: one for one in tx.jobs.attempts(job_id)}
    if not attempts:
        raise NotFound(f"job {job_id} has no log yet: no attempt has begun")
    found = attempts.get(max(attempts) if number is None else number)
    if found is None:
        raise NotFound(f"attempt {number} of job {job_id} does not exist; there are attempts 1 to {max(attempts)}")
    return LoggedAttempt(job_id, job.run_id, found.number, found.submission_id, found.ended_at)


def log_of(services: Services, attempt: LoggedAttempt) -> AttemptLog:
    return AttemptLog(services.store, attempt.run_id, attempt.submission_id)


def check_stored(log: AttemptLog, attempt: LoggedAttempt, *, follow: bool) -> None:
    """Raise NotFound, which says why, if nothing of the log is stored and nobody will wait for it."""
    if follow and attempt.runs_or_just_ended:
        return
    if log.exists():
        return
    if attempt.runs_or_just_ended:
        raise NotFound(
            f"attempt {attempt.number} of job {attempt.job_id} has no log yet: the trainer stores it a few seconds "
            "after the first line; follow=true waits for it"
        )
    raise NotFound(
        f"the log of attempt {attempt.number} of job {attempt.job_id} was not kept: the trainer was away when the "
        "attempt ended, Ray had lost the log, or the store refused it"
    )


async def stream(services: Services, request: Request, attempt: LoggedAttempt, *, follow: bool) -> AsyncIterator[bytes]:
    """The log so far. With `follow`, then every new line until the log is complete, or nobody reads or serves it.

    While a log is followed, an outage of the store or the catalog only delays the next lines.
    """
    log = log_of(services, attempt)
    while True:
        try:
            new = await anyio.to_thread.run_sync(log.read)
        except SnapshotError as error:
            if not follow:
                raise
            _log.warning("a log that is followed waits: %s", error)
            new = LogEnd(b"", False)
        if new.data:
            yield new.data
        if new.complete or not follow or not attempt.runs_or_just_ended:
            return
        if services.events.closed or await request.is_disconnected():
            return
        await anyio.sleep(POLL_SECONDS)
        with suppress(CatalogError):
            attempt = await anyio.to_thread.run_sync(_again, services, attempt)


def _again(services: Services, attempt: LoggedAttempt) -> LoggedAttempt:
    with services.catalog.transaction(read_only=True) as tx:
        return find_attempt(tx, attempt.job_id, attempt.number)


def last_lines(services: Services, attempt: LoggedAttempt, count: int) -> str:
    """At most `count` of the last lines that are stored; empty where nothing is, or the store does not answer."""
    try:
        data = log_of(services, attempt).tail(TAIL_BYTES)
    except SnapshotError as error:
        _log.warning("the page shows no log: %s", error)
        return ""
    lines = data.decode(errors="replace").splitlines()
    whole = lines[1:] if len(data) == TAIL_BYTES else lines
    return "\n".join(whole[-count:])
