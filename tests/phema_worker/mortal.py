"""`python -m tests.phema_worker.mortal PHASE`: does a worker's jobs without Ray and kills itself in the given phase.

`compact` makes the vectors of a basis and dies when half of them is there. All others give a run's snapshots up.

Settings come from the environment, as a worker's do. Phases: `retire` (before the transaction that gives up ends),
`delete-N` (before object N is deleted), `deleted` (all objects gone, no row), `remove` (the rows too, before that
transaction ends).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from phema.services.phema_worker.job_tasks import begin_task, complete_job, task_of
from phema.services.phema_worker.retain import delete_objects
from phema.services.phema_worker.task_outcomes import Done
from phema.services.phema_worker.task_progress import TaskProgress
from phema.services.phema_worker.tasks import RetainTask
from phema.shared.catalog import Catalog, JobKind, content_key
from phema.shared.settings import Settings
from phema.shared.snapshots.stores.interface import ObjectStore
from phema.shared.wiring import catalog_from, store_from

RUN = "mortal"
EVERY_OTHER = 2


def give_up(catalog: Catalog, run: str, at: Callable[[str], None]) -> None:
    """Retire every other snapshot and queue the job, as the API does."""
    with catalog.transaction() as tx:
        run_id = tx.runs.get(run).id
        tx.runs.lock(run_id)
        tx.snapshots.retire(row.id for row in tx.snapshots.list(run_id)[::EVERY_OTHER])
        doomed = sorted(row.id for row in tx.snapshots.retired(run_id))
        tx.jobs.enqueue(JobKind.RETAIN, payload={}, content_key=content_key("retain", doomed), run_id=run_id)
        at("retire")


def attempt(catalog: Catalog, store: Any, at: Callable[[str], None]) -> None:
    """One attempt at the oldest queued `retain` job, as in a worker."""
    with catalog.transaction() as tx:
        tx.leases.expire([JobKind.RETAIN])
        job = tx.leases.claim([JobKind.RETAIN], owner=RUN, lease_seconds=0.0)
    assert job is not None
    with catalog.transaction(read_only=True) as tx:
        task = task_of(tx, job)
    assert task is None or isinstance(task, RetainTask)
    if task is not None:
        delete_objects(store, task, TaskProgress())
    at("deleted")
    with catalog.transaction() as tx:
        complete_job(tx, job, task, Done((), 0.0))
        at("remove")


class Deadly:
    """A store whose process kills itself before it deletes the object of a given number."""

    def __init__(self, store: ObjectStore, at: Callable[[str], None]) -> None:
        self._store, self._at, self._count = store, at, 0

    def delete(self, key: str) -> None:
        self._at(f"delete-{self._count}")
        self._count += 1
        self._store.delete(key)


class Mortal(TaskProgress):
    """Kills the process when half of the work is done."""

    def at(self, done: int, total: int) -> None:
        if 2 * done >= total:
            os.kill(os.getpid(), signal.SIGKILL)


def compact(settings: Settings, catalog: Catalog) -> None:
    """One attempt at the oldest queued `compact` job."""
    from phema.services.phema_worker.task_runner import TaskRunner  # torch takes seconds to import

    with catalog.transaction() as tx:
        job = tx.leases.claim([JobKind.COMPACT], owner=RUN, lease_seconds=0.0)
    assert job is not None
    with catalog.transaction() as tx:
        task = begin_task(tx, job)
    assert task is not None
    TaskRunner(settings).do(task, Mortal())


def main(phase: str) -> None:
    def at(here: str) -> None:
        if here == phase:
            os.kill(os.getpid(), signal.SIGKILL)

    settings = Settings()
    catalog, store = catalog_from(settings), store_from(settings)
    if phase == "compact":
        compact(settings, catalog)
    give_up(catalog, RUN, at)
    attempt(catalog, Deadly(store, at), at)


if __name__ == "__main__":
    main(sys.argv[1])
