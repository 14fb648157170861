"""Whether catalog and store can be used, and the metrics of API, queue, processes and disks for Prometheus."""

from __future__ import annotations

import itertools
import logging
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from prometheus_client import generate_latest

from phema.services.api.health.background_check import BackgroundCheck
from phema.services.api.health.schemas import Check, Readiness
from phema.shared.catalog import (
    AttemptOutcome,
    Catalog,
    CatalogError,
    EndedCounts,
    EventCounts,
    EventKind,
    JobKind,
    QueueStats,
    ScrapeTarget,
)
from phema.shared.settings import Settings
from phema.shared.snapshots import ObjectStore
from phema.shared.snapshots.errors import SnapshotError
from phema.shared.telemetry import Meters
from phema.shared.telemetry import metrics as m

log = logging.getLogger(__name__)

TARGET_KINDS = ("trainer", "training", "worker")
LOST_SECONDS = 900.0
"""A process that stopped reporting is counted as silent for this long, unless one restarts at its address."""
SCRAPE_SECONDS = 2.5
"""Longest wait of a scrape for catalog and store. Prometheus gives up after 4 s and counts the API as down."""
READY_SECONDS = 15.0
"""A scrape repeats the check of a part when the last one is older. A check that hangs this long has failed."""
PROBE_SECONDS = 12.0
"""Longest wait of `/readyz`: a little longer than a database may take to refuse a connection."""
_OF_THE_CATALOG = (m.QUEUE_JOBS, m.QUEUE_OLDEST_SECONDS, m.QUEUE_ATTEMPTS, m.RUN_EVENTS, m.TARGETS)
Part = Literal["catalog", "store"]


@dataclass(frozen=True)
class _QueueFigures:
    """The queue and the processes, as the catalog has them."""

    stats: QueueStats
    events: EventCounts
    live: list[ScrapeTarget]
    silent: list[ScrapeTarget]


class Probes:
    """Checks catalog and store in threads of their own, so that one that hangs delays neither probe nor scrape."""

    def __init__(self, settings: Settings, catalog: Catalog, store: ObjectStore, meters: Meters) -> None:
        self._settings, self._catalog, self._meters = settings, catalog, meters
        self._rendering = threading.Lock()
        self._figures = BackgroundCheck("queue", self._read)
        self._settled: EndedCounts | None = None
        self._settled_events: EventCounts | None = None
        self._parts: dict[Part, BackgroundCheck[Literal[True]]] = {
            "catalog": BackgroundCheck("catalog", lambda: self._check("catalog", catalog.check)),
            "store": BackgroundCheck("store", lambda: self._check("store", store.check)),
        }
        self._checked_at: dict[Part, float] = {}

    def readiness(self, *, explain: bool) -> Readiness:
        """Check both. `explain` adds what is wrong; it names addresses, so it is for callers with the token only."""
        for check in self._parts.values():
            check.start()
        catalog, store = self._readiness_of("catalog", explain), self._readiness_of("store", explain)
        return Readiness(status="ready" if catalog.ok and store.ok else "not ready", catalog=catalog, store=store)

    def scrape(self) -> bytes:
        """The metrics in Prometheus's text format, with the queue, the processes and the disks as they are now.

        When the catalog does not answer, the series that come from it are absent; the API's own are still there.
        """
        due = [part for part in self._parts if time.monotonic() - self._checked_at.get(part, -inf) >= READY_SECONDS]
        for part in due:
            self._parts[part].start()
        figures = self._measured()
        for part in due:
            self._wait_for(part)
        with self._rendering:
            self._show(figures)
            for place, folder in _folders(self._settings).items():
                usage = shutil.disk_usage(_existing(folder))
                self._meters.set(m.DISK_FREE, usage.free, place=place)
                self._meters.set(m.DISK_SIZE, usage.total, place=place)
            return generate_latest(self._meters.registry)

    def _check(self, part: Part, check: Callable[[], None]) -> Literal[True]:
        """Runs in the part's own thread. Raises CatalogError or SnapshotError when the part cannot be used."""
        try:
            check()
        except (CatalogError, SnapshotError):
            self._note(part, ready=False)
            raise
        self._note(part, ready=True)
        return True

    def _note(self, part: Part, *, ready: bool) -> None:
        self._checked_at[part] = time.monotonic()
        self._meters.set(m.API_READY, ready, part=part)

    def _readiness_of(self, part: Part, explain: bool) -> Check:
        try:
            if self._parts[part].result(PROBE_SECONDS):
                return Check(ok=True)
            problem = f"the {part} has not answered for {self._parts[part].overdue_s:.0f} s"
            self._meters.set(m.API_READY, 0, part=part)
        except (CatalogError, SnapshotError) as error:
            problem = str(error)
        log.warning("%s is not ready: %s", part, problem)
        return Check(ok=False, detail=problem if explain else None)

    def _wait_for(self, part: Part) -> None:
        """Wait until the part's check has ended, at most `SCRAPE_SECONDS`."""
        try:
            self._parts[part].result(SCRAPE_SECONDS)
        except (CatalogError, SnapshotError) as error:
            log.warning("%s is not ready: %s", part, error)
            return
        if self._parts[part].overdue_s >= READY_SECONDS:
            self._meters.set(m.API_READY, 0, part=part)

    def _measured(self) -> _QueueFigures | None:
        try:
            figures = self._figures.result(SCRAPE_SECONDS)
        except CatalogError as error:
            log.warning("the queue cannot be measured: %s", error)
            return None
        if figures is None:
            log.warning("the queue cannot be measured: no answer for %.0f s", self._figures.overdue_s)
        return figures

    def _read(self) -> _QueueFigures:
        silence = self._settings.target_silence_seconds
        with self._catalog.transaction(read_only=True) as tx:
            stats = tx.queue_stats.read(self._settled)
            events = tx.run_events.counts(self._settled_events)
            live, silent = tx.scrape_targets.live(silence), tx.scrape_targets.silent(silence, LOST_SECONDS)
        self._settled, self._settled_events = stats.settled, events.settled
        return _QueueFigures(stats, events, live, silent)

    def _show(self, figures: _QueueFigures | None) -> None:
        meters = self._meters
        for metric in _OF_THE_CATALOG:
            meters.clear(metric)
        if figures is None:
            return
        stats = figures.stats
        for kind, state, count in stats.counts:
            meters.set(m.QUEUE_JOBS, count, kind=kind, state=state)
        for kind, seconds in stats.oldest_queued_seconds.items():
            meters.set(m.QUEUE_OLDEST_SECONDS, seconds, kind=kind)
        # Starts at 0, so that Prometheus sees the first failure of a kind as an increase.
        for kind, outcome in itertools.product(JobKind, AttemptOutcome):
            meters.set(m.QUEUE_ATTEMPTS, 0, kind=kind, outcome=outcome)
        for kind, outcome, count in stats.attempts:
            meters.set(m.QUEUE_ATTEMPTS, count, kind=kind, outcome=outcome)
        for event_kind in EventKind:
            meters.set(m.RUN_EVENTS, figures.events.counts[event_kind], kind=event_kind)
        for state_of_target, found in (("live", figures.live), ("silent", figures.silent)):
            for name in TARGET_KINDS:
                count = sum(target.kind == name for target in found)
                meters.set(m.TARGETS, count, kind=name, state=state_of_target)


def _folders(settings: Settings) -> dict[Literal["state", "store"], Path]:
    """The folders whose disks are measured. A bucket has no disk of this machine."""
    folders: dict[Literal["state", "store"], Path] = {"state": settings.state_dir.resolve()}
    url = urlsplit(settings.object_store_url)
    if url.scheme == "file":
        folders["store"] = Path(unquote(url.path))
    return folders


def _existing(folder: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())
