"""How far a task is and whether it should stop: shared by the thread that works and the one that answers for it."""

from __future__ import annotations

import math
import threading
import time


class Cancelled(Exception):
    """The task was told to stop; it ends at the next chunk or network evaluation."""


class TaskProgress:
    """Written by the working thread through `expect` and `advance`, read, stopped and held from another."""

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
        """The job surely belongs to this attempt for so long, counted from now."""
        self._held_until = time.monotonic() + seconds

    def expect(self, total: int) -> None:
        """Declare how much work there is, in whatever unit `advance` counts."""
        self._total = max(total, 1)

    def at(self, done: int, total: int) -> None:
        """Set the position directly. Raises Cancelled."""
        self._done, self._total = done, max(total, 1)
        self.check()

    def advance(self, amount: int) -> None:
        """Count work that was done. Raises Cancelled."""
        self._done += amount
        self.check()

    def check(self) -> None:
        """Raises Cancelled when told to stop."""
        if self._stop.is_set():
            raise Cancelled

    def check_held(self) -> None:
        """Before what another attempt must not be disturbed by. Raises Cancelled when it may have the job by now."""
        if time.monotonic() >= self._held_until:
            raise Cancelled
