"""How many Ray actors a worker needs: one always, more while jobs are due and no actor is free."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable, Iterable

from phema.shared.catalog import Catalog, JobKind
from phema.shared.settings import Settings

IDLE_SECONDS = 30.0
"""An actor beyond the first ends when it has had no job for so long, and frees its CPUs and GPUs."""


class ActorDemand:
    """Shared by the slots of a worker, each of which has at most one actor. Thread-safe.

    The first actor stays, so that a small job starts at once. While a training is queued or running, at most
    `actors_while_training` of the settings work.
    """

    def __init__(self, settings: Settings, catalog: Catalog, kinds: Iterable[JobKind]) -> None:
        self._catalog, self._kinds = catalog, tuple(kinds)
        self._pause = settings.poll_seconds
        self._while_training = settings.actors_while_training
        self._lock = threading.Lock()
        self._actors: set[Hashable] = set()
        """Slots that have an actor, or start one."""
        self._starting: set[Hashable] = set()
        """Slots whose actor is not ready yet."""
        self._busy: set[Hashable] = set()
        """Slots whose actor has a job."""
        self._next_look = 0.0

    def may_start(self, slot: Hashable) -> bool:
        """Whether one more actor has work to do. If so, the slot must start one, or call `ended`.

        Raises CatalogUnreachable.
        """
        with self._lock:
            if self._actors and not self._one_more_is_useful():
                return False
            self._actors.add(slot)
            self._starting.add(slot)
            return True

    def ready(self, slot: Hashable) -> None:
        """The slot's actor has started."""
        with self._lock:
            self._starting.discard(slot)

    def must_end(self, slot: Hashable, idle_seconds: float) -> bool:
        """Whether the slot, which has no job, must end its actor. It then no longer counts.

        Raises CatalogUnreachable.
        """
        with self._lock:
            if len(self._actors) == 1:
                return False
            if idle_seconds < IDLE_SECONDS and not self._limited(len(self._actors)):
                return False
            self._actors.discard(slot)
            return True

    def began(self, slot: Hashable) -> None:
        """The slot's actor has a job."""
        with self._lock:
            self._starting.discard(slot)
            self._busy.add(slot)

    def freed(self, slot: Hashable) -> None:
        """The slot has no job any more."""
        with self._lock:
            self._busy.discard(slot)

    def ended(self, slot: Hashable) -> None:
        """The slot has no actor any more."""
        with self._lock:
            self._actors.discard(slot)
            self._starting.discard(slot)

    def _one_more_is_useful(self) -> bool:
        # However many slots ask, the catalog is asked once per pause.
        now = time.monotonic()
        if now < self._next_look:
            return False
        if self._actors - self._starting - self._busy:
            return False  # a free actor takes the next job; an idle worker asks nothing
        starting = len(self._starting)
        with self._catalog.transaction(read_only=True) as tx:
            useful = tx.leases.count_due(self._kinds, limit=starting + 1) > starting
        if useful and not self._limited(len(self._actors) + 1):
            return True
        self._next_look = now + self._pause
        return False

    def _limited(self, actors: int) -> bool:
        """Whether a training forbids so many actors."""
        if self._while_training is None or actors <= self._while_training:
            return False
        with self._catalog.transaction(read_only=True) as tx:
            return bool(tx.jobs.running(JobKind.TRAIN)) or tx.leases.count_due([JobKind.TRAIN], limit=1) > 0
