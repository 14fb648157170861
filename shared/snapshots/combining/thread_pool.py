"""Threads that share the arithmetic of a reconstruction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count

import torch


class ComputePool:
    """`count` threads that take items from one list as each thread becomes free.

    PyTorch's own threads synchronise after every operation. On a busy machine each synchronisation waits until the
    operating system schedules every thread again: milliseconds for an operation of microseconds. The threads of this
    pool synchronise once per block.
    """

    def __init__(self, count: int, executor: Executor) -> None:
        self.count, self._executor = count, executor

    def run(self, action: Callable[[int, int], None], items: Sequence[int]) -> None:
        """Call `action(thread, item)` for every item and wait; `thread` counts from 0.

        Raises the exception of the first thread that failed.
        """
        turn = count()

        def work(thread: int) -> None:
            while (index := next(turn)) < len(items):
                action(thread, items[index])

        for future in [self._executor.submit(work, thread) for thread in range(min(self.count, len(items)))]:
            future.result()


@contextmanager
def compute_pool() -> Iterator[ComputePool]:
    """A pool of as many threads as PyTorch may use. Until it closes, PyTorch's operations use one thread each."""
    threads = torch.get_num_threads()
    try:
        if threads > 1:
            torch.set_num_threads(1)
        with thread_pool(threads, "reconstruct-compute") as executor:
            yield ComputePool(threads, executor)
    finally:
        if threads > 1:
            torch.set_num_threads(threads)


@contextmanager
def thread_pool(workers: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """A thread pool that, when it closes, cancels tasks that have not started and waits for the others."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix=name)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
