"""Polling the API until a run or job ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from phema.client.response_models import Job, Run
from phema.errors import ServiceError, ServiceUnreachable, WaitTimeout

POLL_SECONDS = 0.5
FIRST_PAUSE_SECONDS = 0.05
"""Pause after the first answers: many jobs take a tenth of a second."""
OUTAGE_SECONDS = 60.0
"""Longest outage of the service that polling tolerates, in seconds. A restart takes less."""

Awaited = TypeVar("Awaited", Run, Job)


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
        time.sleep(min(max((now - start) / 10, FIRST_PAUSE_SECONDS), poll_seconds))
