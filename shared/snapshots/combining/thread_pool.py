"""Threads that share the arithmetic of a reconstruction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count

import torch


class Lanes:
    """`count` threads that take items from one list as they come free.

    PyTorch's own threads meet after every operation; on a busy machine each meeting waits for the operating system to
    bring back the thread it took away, milliseconds for an operation of microseconds. Lanes meet once per block.
    """

    def __init__(self, count: int, pool: Executor) -> None:
        self.count, self._pool = count, pool

    def run(self, action: Callable[[int, int], None], items: Sequence[int]) -> None:
        """Call `action(lane, item)` for every item and wait; raises what the first failed lane raised."""
        turn = count()

        def work(lane: int) -> None:
            while (index := next(turn)) < len(items):
                action(lane, items[index])

        for future in [self._pool.submit(work, lane) for lane in range(min(self.count, len(items)))]:
            future.result()


@contextmanager
def lanes_of_torch() -> Iterator[Lanes]:
    """As many lanes as PyTorch may use threads; meanwhile PyTorch uses one thread per operation in this process."""
    threads = torch.get_num_threads()
    try:
        if threads > 1:
            torch.set_num_threads(1)
        with pool_of(threads, "reconstruct-lane") as pool:
            yield Lanes(threads, pool)
    finally:
        if threads > 1:
            torch.set_num_threads(threads)


@contextmanager
def pool_of(workers: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """A thread pool that, on the way out, drops what has not begun and waits for the rest."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix=name)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
