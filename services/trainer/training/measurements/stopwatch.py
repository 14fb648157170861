"""Measures the time of each part of a training step without making the loop wait for its device."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

Part = Literal["data", "forward_backward", "optimizer", "ema", "snapshot"]
"""`optimizer` includes the sum of gradients over workers. `snapshot` is the time the loop spends on copying weights and
on waiting for earlier uploads."""

TIMED_STEPS = 64
"""Most steps that are timed between two statuses on a GPU: each needs one event per part. Snapshots are all timed."""


class Stopwatch:
    """Mean seconds of each part of the steps since `reset`.

    On a CPU it reads the clock. On a GPU it records events in the device's stream and reads them in `means`; `data` is
    then the time in which the device was idle because its next batch had not arrived.
    """

    def __init__(self, device: torch.device) -> None:
        self._uses_events = device.type == "cuda"
        self.reset()

    def reset(self) -> None:
        """Start over with no steps."""
        self._steps = self._timed_steps = 0
        self._running = False
        self._seconds: dict[Part, float] = {}
        self._events: list[tuple[Part, torch.cuda.Event, torch.cuda.Event]] = []

    def begin(self) -> None:
        """Call at the start of each step."""
        self._steps += 1
        self._running = not self._uses_events or self._timed_steps < TIMED_STEPS
        if self._running:
            self._timed_steps += 1
            self._mark = self._now()

    def lap(self, part: Part) -> None:
        """The time since `begin` or the last `lap` was spent on `part`. Ignored before the first step."""
        if not self._running:
            return
        mark, self._mark = self._mark, self._now()
        self._add(part, mark, self._mark)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """The time of the block, which follows a step, is spent on `snapshot`."""
        before = self._now()
        yield
        self._add("snapshot", before, self._now())

    def _add(self, part: Part, before: float | torch.cuda.Event, after: float | torch.cuda.Event) -> None:
        if isinstance(before, float):
            assert isinstance(after, float)
            self._seconds[part] = self._seconds.get(part, 0.0) + after - before
        else:
            assert not isinstance(after, float)
            self._events.append((part, before, after))

    def means(self) -> dict[Part, float]:
        """Mean seconds per step of each part; empty without steps. On a GPU, waits for the last step that was timed.

        `snapshot` is divided by the number of all steps, the other parts by the number of timed steps.
        """
        if not self._steps:
            return {}
        seconds: dict[Part, float] = {"snapshot": 0.0, **self._seconds}
        if self._events:
            self._events[-1][2].synchronize()
        for part, before, after in self._events:
            seconds[part] = seconds.get(part, 0.0) + before.elapsed_time(after) / 1e3
        return {part: s / (self._steps if part == "snapshot" else self._timed_steps) for part, s in seconds.items()}

    def _now(self) -> float | torch.cuda.Event:
        if not self._uses_events:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def peak_memory(device: torch.device) -> int:
    """Most bytes held so far: allocated by PyTorch on the GPU, or resident memory of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
