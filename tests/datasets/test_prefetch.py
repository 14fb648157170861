"""Prefetching changes when pictures are read, but not which pictures."""

from __future__ import annotations

import threading

import pytest

from phema.shared.datasets import DatasetError, Prefetcher


@pytest.mark.parametrize(("ahead", "workers"), [(0, 1), (1, 1), (3, 2), (5, 8)])
def test_results_are_those_of_reading(ahead: int, workers: int) -> None:
    with Prefetcher(lambda n: n * n, 4, ahead, workers) as ahead_of_time:
        clock = [*range(0, 40, 4), 8, 8, 1000, 1004]  # a run may also jump, to a checkpoint
        assert [ahead_of_time.at(n) for n in clock] == [n * n for n in clock]


def test_the_look_ahead_is_bounded_and_ends_with_the_run() -> None:
    read: list[int] = []
    lock, behind = threading.Lock(), threading.Event()

    def record(n: int) -> int:
        with lock:
            read.append(n)
            if 12 in read:
                behind.set()
        return n

    with Prefetcher(record, 4, 3, 1, end=20) as ahead_of_time:
        assert ahead_of_time.at(0) == 0
        assert behind.wait(10)
        assert sorted(read) == [0, 4, 8, 12]
        assert [ahead_of_time.at(n) for n in range(4, 20, 4)] == [4, 8, 12, 16]
    assert sorted(read) == [0, 4, 8, 12, 16]


def test_the_next_batch_is_read_while_the_caller_works() -> None:
    """The background thread finishes 4 without anybody asking for it."""
    done = threading.Event()
    with Prefetcher(lambda n: done.set() if n == 4 else None, 4, 1) as ahead_of_time:
        ahead_of_time.at(0)
        assert done.wait(10)


def test_errors_surface_at_their_time() -> None:
    def read(n: int) -> int:
        if n == 8:
            raise DatasetError("picture b.png cannot be read")
        return n

    with Prefetcher(read, 4, 4, 2) as ahead_of_time:
        assert [ahead_of_time.at(0), ahead_of_time.at(4)] == [0, 4]
        for _ in range(2):
            with pytest.raises(DatasetError, match=r"b\.png"):
                ahead_of_time.at(8)
        assert ahead_of_time.at(12) == 12


def test_closing_leaves_no_thread_and_no_work() -> None:
    started, release = threading.Event(), threading.Event()

    def read(n: int) -> int:
        if n:
            started.set()
            assert release.wait(10)
        return n

    ahead_of_time = Prefetcher(read, 4, 8, 1)
    ahead_of_time.at(0)
    assert started.wait(10)
    closing = threading.Thread(target=ahead_of_time.close)
    closing.start()
    release.set()
    closing.join(10)
    assert not closing.is_alive()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]
    ahead_of_time.close()
    with pytest.raises(RuntimeError, match="closed"):
        ahead_of_time.at(4)


def test_mistakes_are_named() -> None:
    with pytest.raises(DatasetError, match="step of the prefetcher is 0; it must be at least 1"):
        Prefetcher(lambda n: n, 0, 1)
