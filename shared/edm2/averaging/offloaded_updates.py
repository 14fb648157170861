"""Updates of averages that are kept on the CPU, while the device goes on with the next step."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor


class OffloadedUpdates:
    """Copies weights to the CPU without waiting for the copy, and works on them there in one background thread.

    From a CUDA device, weights are copied on the device first, because the next optimizer step changes them. That
    copy goes to pinned memory on a stream of its own and is then freed. At most one update is under way.
    """

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._pending: Future[None] | None = None
        self._staged: list[Tensor] = []
        self._streams: dict[torch.device, Any] = {}

    def submit(self, weights: list[Tensor], work: Callable[[list[Tensor]], None]) -> None:
        """Call `work` in the thread with a copy of `weights` on the CPU. Raises the error of the update before."""
        self.wait()
        if not self._staged:
            self._staged = [
                torch.empty(w.shape, dtype=w.dtype, device="cpu", pin_memory=w.is_cuda).detach() for w in weights
            ]
        copied = self._copy(weights)
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="phema-ema")
        self._pending = self._thread.submit(_work, copied, work, self._staged)

    def wait(self) -> None:
        """Wait until the averages hold the last update. Raises the error of that update."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _copy(self, weights: list[Tensor]) -> list[Any]:
        """Start to copy `weights` into the staged tensors. Returns the CUDA events that end the copying."""
        events = []
        for device in dict.fromkeys(w.device for w in weights):
            chosen = [i for i, w in enumerate(weights) if w.device == device]
            own, staged = [weights[i] for i in chosen], [self._staged[i] for i in chosen]
            if device.type != "cuda":
                torch._foreach_copy_(staged, own)
                continue
            if device not in self._streams:
                self._streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            stream = self._streams[device]
            kept = [torch.empty_like(w) for w in own]
            torch._foreach_copy_(kept, own)
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                for target, source in zip(staged, kept, strict=True):
                    target.copy_(source, non_blocking=True)
                    # The allocator may give the memory to the training's stream only after this copy.
                    source.record_stream(stream)
                events.append(stream.record_event())
        return events


def _work(copied: list[Any], work: Callable[[list[Tensor]], None], staged: list[Tensor]) -> None:
    for event in copied:
        event.synchronize()
    with torch.no_grad():  # a property of each thread
        work(staged)
