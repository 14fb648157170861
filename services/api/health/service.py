"""Whether catalog and store can be used, and what the queue holds."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from prometheus_client import generate_latest

from services.api.health.schemas import Check, Readiness
from shared.catalog import Catalog, CatalogError
from shared.snapshots.errors import SnapshotError
from shared.snapshots.store import ObjectStore
from shared.telemetry import Meters
from shared.telemetry.metrics import QUEUE_JOBS, QUEUE_OLDEST_SECONDS

log = logging.getLogger(__name__)
_scrape = threading.Lock()


def readiness(catalog: Catalog, store: ObjectStore, *, explain: bool) -> Readiness:
    """Ask both. With `explain`, what is wrong is told: it names addresses, which strangers need not know."""
    checks = [_checked("catalog", catalog.check, explain), _checked("store", store.check, explain)]
    ready = all(check.ok for check in checks)
    return Readiness(status="ready" if ready else "not ready", catalog=checks[0], store=checks[1])


def _checked(name: str, check: Callable[[], None], explain: bool) -> Check:
    try:
        check()
    except (CatalogError, SnapshotError) as error:
        log.warning("%s is not ready: %s", name, error)
        return Check(ok=False, detail=str(error) if explain else None)
    return Check(ok=True)


def scrape(meters: Meters, catalog: Catalog) -> bytes:
    """The metrics in Prometheus's text format, with the queue as it is now.

    Without a catalog the queue's series are absent, and the API's own are still there to tell of it.
    """
    with _scrape:
        meters.clear(QUEUE_JOBS)
        meters.clear(QUEUE_OLDEST_SECONDS)
        try:
            with catalog.transaction(read_only=True) as tx:
                stats = tx.jobs.stats()
        except CatalogError as error:
            log.warning("the queue cannot be measured: %s", error)
        else:
            for kind, state, count in stats.counts:
                meters.set(QUEUE_JOBS, count, kind=kind, state=state)
            for kind, seconds in stats.oldest_queued_seconds.items():
                meters.set(QUEUE_OLDEST_SECONDS, seconds, kind=kind)
        return generate_latest(meters.registry)
