"""Ends the calls of an asynchronous client whose task was cancelled: they run in threads, which cannot be stopped."""

from __future__ import annotations

import threading
import time
from contextvars import ContextVar

STOP: ContextVar[threading.Event | None] = ContextVar("STOP", default=None)
"""Set when nobody awaits the call of this context any more; None in synchronous calls."""


class Stopped(Exception):
    """The task that awaited this call was cancelled. Nobody receives this error."""


def pause(seconds: float) -> None:
    """Sleep. Raises Stopped as soon as the awaiting task is cancelled."""
    stop = STOP.get()
    if stop is None:
        time.sleep(seconds)
    elif stop.wait(seconds):
        raise Stopped


def check_stopped() -> None:
    """Raise Stopped if the awaiting task was cancelled."""
    stop = STOP.get()
    if stop is not None and stop.is_set():
        raise Stopped
