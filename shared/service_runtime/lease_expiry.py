"""Takes jobs away from workers that have fallen silent, but not from those that could not speak."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable

from phema.shared.catalog import Catalog, Job, JobKind
from phema.shared.catalog.repositories.leases import fell_silent


class LeaseExpiry:
    """Ends leases that have run out, on behalf of one process that calls `expire` again and again.

    Nobody can extend a lease while the catalog is away, held by another process, or while the whole machine sleeps.
    Such an outage shows as a gap between two looks of this process. After a gap, and after the start of the process,
    no lease is ended for the time of one lease (`lease_s`), in which every living worker sends a heartbeat. A process
    whose calls of `expire` may be late for another reason looks in between, from another thread.

    Both times are read from the database's clock, which the leases follow too.
    """

    def __init__(self, catalog: Catalog, kinds: Iterable[JobKind], *, lease_s: float) -> None:
        self._catalog, self._kinds, self._lease_s = catalog, tuple(kinds), lease_s
        self._looking = threading.Lock()
        self._last_look: float | None = None
        self._in_touch_since = 0.0

    def expire(self, *, reason: Callable[[Job], str] = fell_silent, uncounted: Collection[str] = ()) -> list[Job]:
        """The jobs taken away, in their new states. Call it or `look` at least every quarter of a lease.

        Arguments as of `LeaseRepository.expire`.

        Raises CatalogUnreachable.
        """
        if not self.look():
            return []
        with self._catalog.transaction() as tx:
            return tx.leases.expire(self._kinds, reason=reason, uncounted=uncounted)

    def look(self) -> bool:
        """Whether leases have run out and may be ended. Thread-safe. Raises CatalogUnreachable."""
        with self._looking:
            with self._catalog.transaction(read_only=True) as tx:
                now, silent = tx.leases.silence(self._kinds)
            # Heartbeats come at least three times per lease: a gap of half a lease may have cost one lease its life.
            if self._last_look is None or not 0 <= now - self._last_look <= self._lease_s / 2:
                self._in_touch_since = now
            self._last_look = now
            return silent and now - self._in_touch_since >= self._lease_s
