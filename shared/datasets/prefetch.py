"""Reading ahead of the clock, so that a training step never waits for its pictures."""

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
    """`read(num_images)` computed in background threads for the next times of the clock.

    `read` must be a pure function of `num_images` and thread-safe: then `at(n)` is `read(n)` whatever was read ahead,
    in which order it is asked and however many threads there are. At most `ahead` results wait, so memory is bounded
    by `ahead` + 1 of them. What `read` raises is raised by `at`, in the caller's thread. With `ahead` 0 nothing runs
    in the background.
    """

    def __init__(
        self, read: Callable[[int], T], step: int, ahead: int, workers: int = 1, *, end: int | None = None
    ) -> None:
        """Times follow each other by `step` images; nothing at or after `end` is read ahead.

        Raises DatasetError for a step or a number of workers below 1, or `ahead` below 0.
        """
        for name, value, least in (("step", step, 1), ("ahead", ahead, 0), ("workers", workers, 1)):
            if value < least:
                raise DatasetError(f"{name} of the prefetcher is {value}; it must be at least {least}")
        self._read, self._step, self._ahead, self._end = read, step, ahead, end
        self._pool = ThreadPoolExecutor(min(workers, ahead), thread_name_prefix="prefetch") if ahead else None
        self._pending: dict[int, Future[T]] = {}
        self._stopped = threading.Event()
        self.waited_seconds = 0.0
        """Time that callers of `at` have stood still."""

    def at(self, num_images: int) -> T:
        """`read(num_images)`; times before it are forgotten, the next ones are begun.

        Raises what `read` raises; RuntimeError after `close`.
        """
        if self._stopped.is_set():
            raise RuntimeError("the prefetcher is closed")
        began = time.perf_counter()
        try:
            if self._pool is None:
                return self._read(num_images)
            times = range(num_images, num_images + (self._ahead + 1) * self._step, self._step)
            for gone in self._pending.keys() - set(times):  # the clock has passed or jumped
                self._pending.pop(gone).cancel()
            for time_ahead in times:
                past_end = self._end is not None and time_ahead >= self._end
                if time_ahead not in self._pending and (time_ahead == num_images or not past_end):
                    self._pending[time_ahead] = self._pool.submit(self._unless_stopped, time_ahead)
            return self._pending.pop(num_images).result()
        finally:
            self.waited_seconds += time.perf_counter() - began

    def close(self) -> None:
        """Stop reading ahead, forget what was read, and wait for the reads under way. May be called again."""
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
