"""Whether catalog and store can be used, and what the queue holds."""

from __future__ import annotations

import itertools
import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from prometheus_client import generate_latest

from services.api.dependencies import Services
from services.api.health.schemas import Check, Readiness
from shared.catalog import AttemptOutcome, CatalogError, JobKind, Transaction
from shared.settings import Settings
from shared.snapshots.errors import SnapshotError
from shared.telemetry import Meters
from shared.telemetry import metrics as m

log = logging.getLogger(__name__)
_scrape = threading.Lock()

TARGET_KINDS = ("trainer", "training", "worker")
LOST_SECONDS = 900.0
"""A process that fell silent is told of for so long, if nobody restarts it at the same address."""
_OF_THE_CATALOG = (m.QUEUE_JOBS, m.QUEUE_OLDEST_SECONDS, m.QUEUE_ATTEMPTS, m.TARGETS)


def readiness(services: Services, *, explain: bool) -> Readiness:
    """Ask both. With `explain`, what is wrong is told: it names addresses, which strangers need not know."""
    catalog = _checked("catalog", services.catalog.check, explain)
    store = _checked("store", services.store.check, explain)
    services.meters.set(m.API_READY, catalog.ok, part="catalog")
    services.meters.set(m.API_READY, store.ok, part="store")
    return Readiness(status="ready" if catalog.ok and store.ok else "not ready", catalog=catalog, store=store)


def _checked(name: str, check: Callable[[], None], explain: bool) -> Check:
    try:
        check()
    except (CatalogError, SnapshotError) as error:
        log.warning("%s is not ready: %s", name, error)
        return Check(ok=False, detail=str(error) if explain else None)
    return Check(ok=True)


def scrape(services: Services) -> bytes:
    """The metrics in Prometheus's text format, with the queue, the processes and the disks as they are now.

    Without a catalog the series that come from it are absent, and the API's own are still there to tell of it.
    """
    meters = services.meters
    with _scrape:
        for metric in _OF_THE_CATALOG:
            meters.clear(metric)
        try:
            with services.catalog.transaction(read_only=True) as tx:
                _measure(tx, meters, services.settings.target_silence_seconds)
        except CatalogError as error:
            log.warning("the queue cannot be measured: %s", error)
        for place, folder in _folders(services.settings).items():
            usage = shutil.disk_usage(_existing(folder))
            meters.set(m.DISK_FREE, usage.free, place=place)
            meters.set(m.DISK_SIZE, usage.total, place=place)
        return generate_latest(meters.registry)


def _measure(tx: Transaction, meters: Meters, silence_seconds: float) -> None:
    stats = tx.jobs.stats()
    targets = {"live": tx.targets.live(silence_seconds), "silent": tx.targets.silent(silence_seconds, LOST_SECONDS)}
    for kind, state, count in stats.counts:
        meters.set(m.QUEUE_JOBS, count, kind=kind, state=state)
    for kind, seconds in stats.oldest_queued_seconds.items():
        meters.set(m.QUEUE_OLDEST_SECONDS, seconds, kind=kind)
    # From 0 on, so that Prometheus sees the first failure of a kind as one more.
    for kind, outcome in itertools.product(JobKind, AttemptOutcome):
        meters.set(m.QUEUE_ATTEMPTS, 0, kind=kind, outcome=outcome)
    for kind, outcome, count in stats.attempts:
        meters.set(m.QUEUE_ATTEMPTS, count, kind=kind, outcome=outcome)
    for state_of_target, found in targets.items():
        for name in TARGET_KINDS:
            count = sum(target.kind == name for target in found)
            meters.set(m.TARGETS, count, kind=name, state=state_of_target)


def _folders(settings: Settings) -> dict[Literal["state", "store"], Path]:
    """What fills the disks of this machine; a bucket is watched by whoever runs it."""
    folders: dict[Literal["state", "store"], Path] = {"state": settings.state_dir.resolve()}
    url = urlsplit(settings.object_store_url)
    if url.scheme == "file":
        folders["store"] = Path(unquote(url.path))
    return folders


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())
