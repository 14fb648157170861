"""`python -m tests.phema_worker.mortal_deletion`: attempts a run's deletion in processes that kill themselves.

Reads numbers from its input. For each number N it starts a process, which makes one attempt and kills itself at its
step N, and prints how the process ended: `-9`, or `done` if the attempt had fewer steps and finished the deletion.
Steps are counted before each commit, after it, and before each change of the store. Settings come from the environment,
as a worker's do.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from phema.services.phema_worker.deletion.delete_run import RunDeletion
from phema.shared.catalog import Catalog, JobKind, JobState, Transaction
from phema.shared.settings import Settings
from phema.shared.snapshots.stores.interface import ObjectStore
from phema.shared.wiring import catalog_from, store_from


class Steps:
    def __init__(self, last: int) -> None:
        self.last, self.count = last, 0

    def __call__(self) -> None:
        self.count += 1
        if self.count == self.last:
            os.kill(os.getpid(), signal.SIGKILL)


class DeadlyCatalog:
    def __init__(self, catalog: Catalog, step: Steps) -> None:
        self._catalog, self._step = catalog, step

    @contextmanager
    def transaction(self, *, read_only: bool = False) -> Iterator[Transaction]:
        with self._catalog.transaction(read_only=read_only) as tx:
            yield tx
            if not read_only:
                self._step()
        if not read_only:
            self._step()


class DeadlyStore:
    def __init__(self, store: ObjectStore, step: Steps) -> None:
        self._store, self._step = store, step

    def put(self, key: str, data: Any) -> Any:
        self._step()
        return self._store.put(key, data)

    def delete(self, key: str) -> None:
        self._step()
        self._store.delete(key)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def attempt(last: int) -> None:
    settings, step = Settings(), Steps(last)
    whole = catalog_from(settings)
    catalog: Any = DeadlyCatalog(whole, step)
    store: Any = DeadlyStore(store_from(settings), step)
    with whole.transaction() as tx:
        tx.leases.expire([JobKind.DELETE])
        for job_id in [job.id for job in tx.jobs.list(kind=JobKind.DELETE, state=JobState.QUEUED).items]:
            tx.leases.postpone(job_id, "", 0.0)  # without the pause after a failed or expired attempt
        job = tx.leases.claim([JobKind.DELETE], owner="mortal", lease_seconds=0.0)
    assert job is not None
    end = RunDeletion(catalog, store, job).perform()
    with catalog.transaction() as tx:
        state = end(tx)
    assert state is JobState.SUCCEEDED


def serve() -> None:
    """This process has imported everything and has no threads, so that a fork is quick and safe."""
    for line in sys.stdin:
        if (child := os.fork()) == 0:
            attempt(int(line))
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(status or "done", flush=True)


if __name__ == "__main__":
    serve()
