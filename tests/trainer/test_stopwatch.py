"""Parts of a step's time add up to the step, and to the time since the last status only."""

from __future__ import annotations

import time

import pytest
import torch

from services.trainer.stopwatch import Stopwatch, peak_memory


def test_parts_are_means_over_steps() -> None:
    watch = Stopwatch(torch.device("cpu"))
    watch.lap("data")  # no step has begun
    began = time.perf_counter()
    for _ in range(4):
        watch.begin()
        watch.lap("data")
        time.sleep(0.005)
        watch.lap("forward_backward")
    total = time.perf_counter() - began
    means = watch.means()
    assert means.keys() == {"data", "forward_backward"}
    assert means["forward_backward"] >= 0.005
    assert sum(means.values()) == pytest.approx(total / 4, rel=0.2)
    watch.reset()
    assert watch.means() == {}


def test_memory_is_that_of_the_process() -> None:
    assert 2**26 < peak_memory(torch.device("cpu")) < 2**40


@pytest.mark.gpu
def test_a_gpu_is_timed_by_its_own_stream() -> None:
    device = torch.device("cuda")
    watch, matrix = Stopwatch(device), torch.randn(4096, 4096, device=device)
    began = time.perf_counter()
    for _ in range(100):
        watch.begin()
        for _ in range(4):
            matrix = matrix @ matrix / 64
        watch.lap("forward_backward")
        watch.lap("optimizer")
    submitted = time.perf_counter() - began
    means = watch.means()
    assert means["forward_backward"] > 10 * means["optimizer"]
    # Submitting takes a fraction of the work: the loop has not waited for it.
    assert submitted < 64 * means["forward_backward"]
