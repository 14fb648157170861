"""Looks at catalog, store, and the processes that have announced themselves."""

from __future__ import annotations

from collections import defaultdict
from importlib.metadata import version

from phema.services.api.http.dependencies import Services
from phema.services.api.system.schemas import QueuedKind, RunStorage, StoredObjects, System, SystemCheck
from phema.shared.catalog import JobKind, JobState, QueueStats, ScrapeTarget, Transaction
from phema.shared.catalog.repositories.storage import Stored

_MOST_RUNS = 200
_LOST_SECONDS = 900.0
"""A process that is silent for longer is no longer mentioned."""
_STARTED_BY = {
    "trainer": "start `python -m phema.services.trainer` with the settings of this service, or `phema up`",
    "worker": "start `python -m phema.services.phema_worker` with the settings of this service, or `phema up`",
}
_NEEDED_FOR = {"trainer": "trainings stay queued", "worker": "reconstructions and evaluations stay queued"}


def look(services: Services) -> System:
    """The state now. Asks the store once. Raises catalog.CatalogUnreachable."""
    readiness = services.probes.readiness(explain=True)
    silence = services.settings.target_silence_seconds
    with services.catalog.transaction(read_only=True) as tx:
        live, silent = tx.scrape_targets.live(silence), tx.scrape_targets.silent(silence, _LOST_SECONDS)
        stats = tx.queue_stats.read()
        storage = _storage(tx)
    parts = [
        _part("catalog", readiness.catalog.ok, readiness.catalog.detail, services.catalog.location),
        _part("store", readiness.store.ok, readiness.store.detail, services.settings.object_store_url),
    ]
    return System(
        version=version("phema"),
        catalog=services.catalog.location,
        store=services.settings.object_store_url,
        checks=[*parts, *(_processes(kind, live, silent) for kind in _STARTED_BY)],
        queue=_queue(stats),
        storage=storage,
    )


def _part(name: str, ok: bool, problem: str | None, where: str) -> SystemCheck:
    if ok:
        return SystemCheck(name=name, state="ok", detail=f"{where} answers", mend="")
    mend = "`phema doctor`, with the settings of this service, says what to do"
    return SystemCheck(name=name, state="wrong", detail=problem or f"{where} cannot be used", mend=mend)


def _processes(kind: str, live: list[ScrapeTarget], silent: list[ScrapeTarget]) -> SystemCheck:
    here = [target for target in live if target.kind == kind]
    lost = [target for target in silent if target.kind == kind]
    if here and not lost:
        return SystemCheck(name=kind, state="ok", detail=f"{len(here)} at work: {_addresses(here)}", mend="")
    if here:
        detail = f"{len(here)} at work, {len(lost)} silent: {_addresses(lost)}"
        return SystemCheck(name=kind, state="warning", detail=detail, mend="look at the log of the silent process")
    return SystemCheck(
        name=kind, state="wrong", detail=f"none is at work, so {_NEEDED_FOR[kind]}", mend=_STARTED_BY[kind]
    )


def _addresses(targets: list[ScrapeTarget]) -> str:
    return ", ".join(sorted(target.address for target in targets))


def _queue(stats: QueueStats) -> list[QueuedKind]:
    counts: dict[JobKind, dict[JobState, int]] = defaultdict(dict)
    for kind, state, count in stats.counts:
        if not state.terminal:
            counts[kind][state] = count
    return [
        QueuedKind(
            kind=kind,
            queued=states.get(JobState.QUEUED, 0),
            running=states.get(JobState.RUNNING, 0),
            paused=states.get(JobState.PAUSED, 0),
            oldest_queued_seconds=stats.oldest_queued_seconds.get(kind),
        )
        for kind, states in sorted(counts.items())
    ]


def _storage(tx: Transaction) -> list[RunStorage]:
    return [
        RunStorage(
            run_id=one.run_id,
            name=one.name,
            snapshots=_objects(one.snapshots),
            checkpoints=_objects(one.checkpoints),
            reconstructions=_objects(one.reconstructions),
            bases=_objects(one.bases),
            size=one.size,
        )
        for one in tx.storage.by_run(_MOST_RUNS)
    ]


def _objects(stored: Stored) -> StoredObjects:
    return StoredObjects(count=stored.count, size=stored.size)
