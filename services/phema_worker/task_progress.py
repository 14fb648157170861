"""How far a task is and whether it should stop: shared by the working thread and the one that answers status calls."""

from __future__ import annotations

import math
import threading
import time


class Cancelled(Exception):
    """The task was told to stop. Raised at the next chunk or network evaluation."""


class TaskProgress:
    """The working thread calls `expect`, `at` and `advance`; another thread reads, stops and holds the task."""

    def __init__(self, hold_seconds: float = math.inf) -> None:
        """`hold_seconds`: as for `hold`."""
        self.hold(hold_seconds)
        self._stop = threading.Event()
        self._done = 0
        self._total = 1
        self.message = ""

    @property
    def fraction(self) -> float:
        """Fraction done, 0 to 1."""
        return min(self._done / self._total, 1.0)

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def stop(self) -> None:
        self._stop.set()

    def hold(self, seconds: float) -> None:
        """State that this attempt surely has its job for `seconds` from now."""
        self._held_until = time.monotonic() + seconds

    def expect(self, total: int) -> None:
        """Declare the amount of work, in the unit that `advance` counts."""
        self._total = max(total, 1)

    def at(self, done: int, total: int) -> None:
        """Set the amounts done and in total. Raises Cancelled."""
        self._done, self._total = done, max(total, 1)
        self.check()

    def advance(self, amount: int) -> None:
        """Add to the amount done. Raises Cancelled."""
        self._done += amount
        self.check()

    def check(self) -> None:
        """Raise Cancelled if the task was told to stop."""
        if self._stop.is_set():
            raise Cancelled

    def check_held(self) -> None:
        """Raise Cancelled if another attempt may have the job by now. Call it before each deletion."""
        if time.monotonic() >= self._held_until:
            raise Cancelled
