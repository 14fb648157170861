"""Claims jobs one after another, and waits while there are none."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from phema.shared.catalog import Catalog, CatalogUnreachable, Job, JobKind
from phema.shared.service_runtime.outage_log import OutageLog
from phema.shared.service_runtime.work_waker import WorkWaker


class JobFeed:
    """Claims jobs of some kinds for `owner`. One thread uses it. `outages` may be shared with others."""

    def __init__(
        self,
        catalog: Catalog,
        waker: WorkWaker,
        kinds: Iterable[JobKind],
        *,
        owner: str,
        lease_s: float,
        outages: OutageLog | None = None,
    ) -> None:
        self._catalog, self._waker, self._kinds = catalog, waker, tuple(kinds)
        self._owner, self._lease_s = owner, lease_s
        self.outages = outages or OutageLog()

    def next(self, stopping: threading.Event) -> Job | None:
        """Claim a job that is due. If none is, wait until one may be, or `stopping` is set, and return None."""
        rings, pause_s = self._waker.rings, self._waker.pause_s
        try:
            due_s = self._due_s()
            self.outages.reached()
            if due_s == 0 and (job := self._claim()) is not None:
                return job
            if due_s:
                pause_s = min(pause_s, due_s)
        except CatalogUnreachable as error:
            self.outages.missed(error)
        self._waker.wait(rings, stopping, pause_s)
        return None

    def _due_s(self) -> float | None:
        """An idle process only reads, which needs no lock."""
        with self._catalog.transaction(read_only=True) as tx:
            return tx.leases.seconds_until_due(self._kinds)

    def _claim(self) -> Job | None:
        with self._catalog.transaction() as tx:
            return tx.leases.claim(self._kinds, owner=self._owner, lease_seconds=self._lease_s)
