"""The parts of a step's time add up to the step, and cover only the time since the last status."""

from __future__ import annotations

import time

import pytest
import torch

from phema.services.trainer.training.measurements.stopwatch import TIMED_STEPS, Stopwatch, peak_memory


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
    assert means.keys() == {"data", "forward_backward", "snapshot"}
    assert means["snapshot"] == 0, "served as 0, or the value of the last snapshot would stay"
    assert means["forward_backward"] >= 0.005
    assert sum(means.values()) == pytest.approx(total / 4, rel=0.2)
    watch.reset()
    assert watch.means() == {}


class Events(Stopwatch):
    """A stopwatch that times a bounded number of steps, as on a GPU, by the CPU's clock."""

    def _now(self) -> float:
        return time.perf_counter()


def test_a_snapshot_is_timed_after_any_step() -> None:
    """Of a thousand steps a GPU's stopwatch times only the first ones; the snapshot comes after the last."""
    watch = Events(torch.device("cuda"))
    for step in range(1000):
        watch.begin()
        watch.lap("forward_backward")
        if step == 999:
            with watch.snapshot():
                time.sleep(0.02)
    means = watch.means()
    assert 0.02 / 1000 <= means["snapshot"] < 1
    assert watch._timed_steps == TIMED_STEPS


def test_memory_is_that_of_the_process() -> None:
    assert 2**26 < peak_memory(torch.device("cpu")) < 2**40
