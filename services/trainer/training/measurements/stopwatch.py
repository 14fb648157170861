"""Where the time of a training step goes, without making the loop wait for its device."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

Part = Literal["data", "forward_backward", "optimizer", "ema", "snapshot"]
"""`optimizer` includes the sum of gradients over workers; `snapshot` is what the loop pays to copy weights."""

TIMED_STEPS = 64
"""On a GPU, steps timed between two statuses: each takes an event per part. Snapshots are few, and all are timed."""


class Stopwatch:
    """Mean seconds of each part of the steps since `reset`.

    On a CPU by its clock. On a GPU by events in its stream, which are read when the means are: `data` is then the time
    in which the device had nothing to do because its next batch was not there.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = device.type == "cuda"
        self.reset()

    def reset(self) -> None:
        """Forget every step."""
        self._steps = self._timed_steps = 0
        self._running = False
        self._seconds: dict[Part, float] = {}
        self._events: list[tuple[Part, torch.cuda.Event, torch.cuda.Event]] = []

    def begin(self) -> None:
        """A step begins."""
        self._steps += 1
        self._running = not self._stream or self._timed_steps < TIMED_STEPS
        if self._running:
            self._timed_steps += 1
            self._mark = self._now()

    def lap(self, part: Part) -> None:
        """What was done since the last call was `part`; means nothing outside a step."""
        if not self._running:
            return
        mark, self._mark = self._mark, self._now()
        self._add(part, mark, self._mark)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """What is done in the block, after a step, is `snapshot`."""
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
        """Seconds per step of each part; on a GPU, waits for the last step that was timed.

        Of `snapshot` per step taken, of the others per step timed.
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
        if not self._stream:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def peak_memory(device: torch.device) -> int:
    """Most bytes held so far: allocated on the GPU, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
