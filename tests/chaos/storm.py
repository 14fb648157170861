"""The storm itself: one fault after the other, while work is under way."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phema.shared.catalog import NotFound
from tests.chaos.cluster import Cluster, StormFailed
from tests.chaos.imports import Imports
from tests.chaos.progress import ProgressWatch
from tests.chaos.workload import Workload

if TYPE_CHECKING:
    from tests.chaos.faults.registry import Fault

PAUSE_SECONDS = (0.5, 3.0)
"""Between two faults."""
STARVED_SECONDS = 60.0
"""Without any progress for so long, the storm waits before the next fault."""
HANG_SECONDS = 600.0
"""Without any progress and any fault for so long, something hangs."""


class NothingToHit(Exception):
    """A fault has no target now, such as a training process while nothing trains."""


@dataclass(frozen=True)
class Injected:
    """One fault of a storm. Times in seconds."""

    number: int
    at: float
    """Since the storm began."""
    fault: str
    target: str
    under_way: str
    up_after: float
    """Until the victim was up again, or the disturbance over."""
    began: float
    """Monotonic time."""

    def line(self, total: int) -> str:
        up = f"{self.up_after:5.1f} s"
        return (
            f"[{self.number:3}/{total}] {self.at:6.0f} s  {self.fault} ({self.target}); up after {up}; {self.under_way}"
        )


class Storm:
    """`random` decides everything that faults choose; a seed repeats the choices, though not their effects."""

    def __init__(
        self,
        cluster: Cluster,
        workload: Workload,
        imports: Imports,
        *,
        seed: int,
        report: Callable[[str], None],
    ) -> None:
        self.cluster, self.workload, self.imports = cluster, workload, imports
        self._seed = seed
        self.random = random.Random(f"faults {seed}")
        self.report = report
        self.injected: list[Injected] = []
        self.enough = threading.Event()
        """Set to end the faults early, and go on with the checks."""
        self.damaged: list[str] = []
        """Keys of the snapshots of which a byte was flipped."""
        self.skipped_by_rebuild: dict[str, str] = {}
        self.thinned_before: set[str] = set()
        """Names of the runs that were thinned before the loss."""
        self.watch = ProgressWatch(cluster)
        self.began = time.monotonic()

    def pause(self, seconds: float) -> None:
        """Sleep, and raise what ended the cluster or the workload meanwhile."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, 0.2))

    def check(self) -> None:
        self.cluster.check()
        self.workload.check()

    def rage(self, faults: Iterator[Fault], until: int, total: int) -> None:
        """Inject faults until the storm has had `until` of its `total`, or enough."""
        while len(self.injected) < until and not self.enough.is_set():
            self._wait_for_progress()
            chosen = next(faults)
            with suppress(NothingToHit):
                self.inject(chosen.name, chosen.inject, total)
                self.pause(self.random.uniform(*PAUSE_SECONDS))

    def inject(self, name: str, fault: Callable[[Storm], str], total: int) -> None:
        """Raises NothingToHit when the fault has no target now."""
        began, under_way = time.monotonic(), self.under_way()
        target = fault(self)
        ended = time.monotonic()
        number = len(self.injected) + 1
        done = Injected(number, began - self.began, name, target, under_way, ended - began, began)
        self.injected.append(done)
        self.report(done.line(total))

    def choices(self, faults: list[Fault], *, lead: int) -> Iterator[Fault]:
        """Faults at random, by weight. None is chosen more than `lead` times as long as another has not been."""
        counts: Counter[str] = Counter()
        order = random.Random(f"order {self._seed}")
        while True:
            fewest = min(counts[each.name] for each in faults)
            open_ = [each for each in faults if counts[each.name] < fewest + lead]
            chosen = order.choices(open_, [each.weight for each in open_])[0]
            counts[chosen.name] += 1
            yield chosen

    def under_way(self) -> str:
        """What runs now, such as `2 train, 1 evaluate`."""
        counts = self.watch.running()
        if counts is None:
            return "the catalog does not answer"
        return ", ".join(f"{number} {kind}" for kind, number in sorted(counts.items())) or "nothing runs"

    def _wait_for_progress(self) -> None:
        if self.watch.silent_seconds() > STARVED_SECONDS:
            self.report(f"        no progress for {STARVED_SECONDS:g} s: waiting")
            self.wait_for(lambda: self.watch.silent_seconds() < STARVED_SECONDS, "progress")

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Until the condition is true. Raises StormFailed when nothing at all has moved for HANG_SECONDS."""
        began = time.monotonic()
        while not condition():
            self.pause(0.5)
            quiet = min(self.watch.silent_seconds(), time.monotonic() - began)
            if quiet > HANG_SECONDS:
                raise StormFailed(f"waiting for {what}: nothing has moved for {quiet:.0f} s")

    def settle(self) -> None:
        """After the last fault: ask for nothing more, and wait until all accepted work has ended."""
        self.workload.stop_asking()
        self.wait_for(lambda: not self.imports.unfinished, "the end of the imports")
        self.wait_for(lambda: self.watch.unfinished_jobs() == 0, "the end of all jobs")

    def key_of(self, snapshot_id: str) -> str | None:
        """The key of a snapshot's object; None when it has no row any more."""
        with closing(self.cluster.catalog()) as catalog, catalog.transaction(read_only=True) as tx:
            try:
                return tx.snapshots.get(snapshot_id).key
            except NotFound:
                return None

    def flip_byte(self, key: str) -> None:
        """Flip one bit of the last byte of an object, on the disk of the S3 server; the same again repairs it."""
        with self.cluster.object_file(key).open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            (byte,) = file.read(1)
            file.seek(-1, os.SEEK_END)
            file.write(bytes([byte ^ 1]))
