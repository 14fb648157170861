"""Polling the API until a run or job ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from phema.client.cancellation import pause
from phema.client.response_models import Job
from phema.client.transport import Transport, route
from phema.errors import JobFailed, ServiceError, ServiceUnreachable, WaitTimeout

POLL_SECONDS = 0.5
FIRST_PAUSE_SECONDS = 0.05
"""Pause after the first answers: many jobs take a tenth of a second."""
OUTAGE_SECONDS = 60.0
"""Longest outage of the service that polling tolerates, in seconds. A restart takes less."""


class Finishing(Protocol):
    """A response about something that ends."""

    @property
    def done(self) -> bool: ...


Awaited = TypeVar("Awaited", bound=Finishing)


def poll(
    read: Callable[[], Awaited],
    on_progress: Callable[[Awaited], None] | None,
    timeout: float | None,
    poll_seconds: float,
    name: str,
) -> Awaited:
    """Call `read` until its result is done, and return that. `on_progress` gets every result.

    The pauses are a tenth of the time waited so far, at least FIRST_PAUSE_SECONDS and at most `poll_seconds`.

    Raises WaitTimeout after `timeout` seconds, and what `read` raises. An outage after the first result is tolerated
    for OUTAGE_SECONDS: the work continues without the API.
    """
    start = last_seen = time.monotonic()
    seen = False
    while True:
        now = time.monotonic()
        try:
            found = read()
        except (ServiceUnreachable, ServiceError):
            if not seen or now - last_seen > OUTAGE_SECONDS:
                raise
        else:
            seen, last_seen = True, now
            if on_progress is not None:
                on_progress(found)
            if found.done:
                return found
        if timeout is not None and now - start > timeout:
            raise WaitTimeout(f"{name} is not finished after {timeout:g} s; it goes on", name)
        pause(min(max((now - start) / 10, FIRST_PAUSE_SECONDS), poll_seconds))


def wait_for_job(
    transport: Transport,
    job_id: str,
    on_progress: Callable[[Job], None] | None,
    timeout: float | None,
    poll_seconds: float,
) -> Job:
    """Poll a job until it succeeds, and return it. Raises JobFailed if it fails or is cancelled, and as `poll`."""
    path = route("jobs", job_id)
    finished = poll(lambda: Job.read(transport.get(path)), on_progress, timeout, poll_seconds, job_id)
    if finished.state == "succeeded":
        return finished
    reason = finished.error or f"{job_id} was {finished.state}"
    raise JobFailed(f"{finished.kind} job {job_id} {finished.state}: {reason}", job_id, finished.state)
