"""A check that runs in its own thread, so that each caller decides how long to wait for its result."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Generic, TypeVar

T = TypeVar("T")


class BackgroundCheck(Generic[T]):
    """Runs `check` in a thread, once at a time: callers during a run wait for the same result. Thread-safe."""

    def __init__(self, name: str, check: Callable[[], T]) -> None:
        self._name, self._check = name, check
        self._lock = threading.Lock()
        self._pending: Future[T] | None = None
        self._started_at = 0.0

    def start(self) -> Future[T]:
        """The future result of the run in progress, or of one that starts now."""
        with self._lock:
            if self._pending is None or self._pending.done():
                self._pending, self._started_at = Future(), time.monotonic()
                # A daemon thread, so that a check that hangs does not keep the process alive.
                threading.Thread(target=self._run, args=[self._pending], name=self._name, daemon=True).start()
            return self._pending

    def result(self, within_s: float) -> T | None:
        """The result; None if there is none `within_s` seconds after the run started. Raises what the check raised.

        The seconds count from the start of the run: while a check hangs, only the first caller waits for it.
        """
        pending = self.start()
        wait([pending], max(self._started_at + within_s - time.monotonic(), 0.0))
        return pending.result() if pending.done() else None

    @property
    def overdue_s(self) -> float:
        """Seconds since the run in progress started; 0 when none is in progress."""
        with self._lock:
            if self._pending is None or self._pending.done():
                return 0.0
            return time.monotonic() - self._started_at

    def _run(self, pending: Future[T]) -> None:
        try:
            result = self._check()
        except BaseException as error:  # raised again where the result is read
            pending.set_exception(error)
        else:
            pending.set_result(result)
