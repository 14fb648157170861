"""Read batches ahead in background threads, so that training steps need not wait for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

from phema.shared.datasets.errors import DatasetError

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Computes `read(num_images)` in background threads for the next values of `num_images`.

    `read` must be thread-safe and a pure function of `num_images`. Then `at(n)` equals `read(n)`, whatever was read
    ahead, in any order of calls and with any number of threads. At most `ahead` results wait, so memory holds at most
    `ahead` + 1 of them. `at` raises what `read` raised. With `ahead` 0 nothing runs in the background.
    """

    def __init__(
        self, read: Callable[[int], T], step: int, ahead: int, workers: int = 1, *, end: int | None = None
    ) -> None:
        """Successive times differ by `step` images; nothing at or after `end` is read ahead.

        Raises DatasetError if `step` or `workers` is below 1 or `ahead` below 0.
        """
        for name, value, least in (("step", step, 1), ("ahead", ahead, 0), ("workers", workers, 1)):
            if value < least:
                raise DatasetError(f"{name} of the prefetcher is {value}; it must be at least {least}")
        self._read, self._step, self._ahead, self._end = read, step, ahead, end
        self._pool = ThreadPoolExecutor(min(workers, ahead), thread_name_prefix="prefetch") if ahead else None
        self._pending: dict[int, Future[T]] = {}
        self._stopped = threading.Event()
        self.waited_seconds = 0.0
        """Total time in seconds for which calls of `at` have waited."""

    def at(self, num_images: int) -> T:
        """`read(num_images)`. Drops results for earlier times and starts reading the next ones.

        Raises what `read` raises, and RuntimeError after `close`.
        """
        if self._stopped.is_set():
            raise RuntimeError("the prefetcher is closed")
        began = time.perf_counter()
        try:
            if self._pool is None:
                return self._read(num_images)
            times = range(num_images, num_images + (self._ahead + 1) * self._step, self._step)
            for gone in self._pending.keys() - set(times):  # passed, or skipped by a jump
                self._pending.pop(gone).cancel()
            for time_ahead in times:
                past_end = self._end is not None and time_ahead >= self._end
                if time_ahead not in self._pending and (time_ahead == num_images or not past_end):
                    self._pending[time_ahead] = self._pool.submit(self._unless_stopped, time_ahead)
            return self._pending.pop(num_images).result()
        finally:
            self.waited_seconds += time.perf_counter() - began

    def close(self) -> None:
        """Stop reading ahead, drop all results, and wait for reads in progress. May be called twice."""
        self._stopped.set()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._pending.clear()

    def _unless_stopped(self, num_images: int) -> T:
        if self._stopped.is_set():
            raise RuntimeError("the prefetcher is closed")
        return self._read(num_images)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
