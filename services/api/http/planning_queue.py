"""Plans are computed in threads, a few at once; others wait without holding a thread, and too many are refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

from phema.services.api.http.problems import Busy

T = TypeVar("T")

PLANS_AT_ONCE = max(1, min(4, (os.cpu_count() or 1) // 2))
"""Half of the CPUs, so that other requests are answered meanwhile. Bounds the memory of plans, too."""
MOST_WAITING = 64
"""Number of plans that may wait. A plan takes between 10 ms and a few seconds."""


class PlanningQueue:
    """Runs functions that solve plans. For use in one event loop."""

    def __init__(self) -> None:
        self._accepted = 0
        """Plans that wait or are being computed."""

    @cached_property
    def _limiter(self) -> CapacityLimiter:
        # Made inside the event loop that it belongs to.
        return CapacityLimiter(PLANS_AT_ONCE)

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`, which runs in a thread when it is its turn. Raises Busy, and what `work` raises."""
        waiting = self._accepted - PLANS_AT_ONCE
        if waiting >= MOST_WAITING:
            raise Busy(f"{waiting} plans are waiting and {PLANS_AT_ONCE} are being computed; ask again later")
        # Counted here: the limiter counts a task only once the task has waited for its next turn in the event loop.
        self._accepted += 1
        try:
            return await to_thread.run_sync(work, limiter=self._limiter)
        finally:
            self._accepted -= 1
