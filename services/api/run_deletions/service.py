"""Deletions of runs: what one would delete, its request, and its withdrawal. A phema worker deletes."""

from __future__ import annotations

from phema.services.api.http.dependencies import Services
from phema.services.api.http.problems import DeletionRefused
from phema.services.api.jobs.service import to_job
from phema.services.api.run_deletions.schemas import ObjectsOfKind, RunDeletion
from phema.services.api.runs.schemas import Run
from phema.services.api.runs.service import to_run
from phema.shared import catalog
from phema.shared.catalog import Transaction
from phema.shared.snapshots.files.deleted_runs import keys_of_run
from phema.shared.submissions import run_deletions

_HOUR = 3600.0


def delete(services: Services, run: str, *, dry_run: bool, grace_hours: float | None, models: bool) -> RunDeletion:
    """What is deleted; unless `dry_run`, the deletion is queued. Raises catalog.NotFound, DeletionRefused."""
    settings = services.settings
    grace_s = (settings.delete_grace_hours if grace_hours is None else grace_hours) * _HOUR
    now = services.catalog.now()
    with services.catalog.transaction(read_only=True) as tx:
        row = tx.runs.get(run)
    # Outside of any transaction: on SQLite, all writers would wait for the store.
    under_run = dict(keys_of_run(services.store, row.id))
    with services.catalog.transaction(read_only=dry_run) as tx:
        if not dry_run:
            tx.runs.lock(row.id)
        row = tx.runs.get(row.id)
        found = _describe(tx, row, under_run, models=models, delete_at=now + grace_s)
        if dry_run:
            return found
        try:
            job = run_deletions.request(tx, row, grace_s, with_models=models, max_attempts=settings.max_attempts)
        except run_deletions.DeletionRefused as error:
            raise DeletionRefused(str(error)) from error
        at = tx.runs.get(row.id).delete_at
        return found.model_copy(update={"dry_run": False, "delete_at": at, "job": to_job(job)})


def _describe(
    tx: Transaction, row: catalog.Run, under_run: dict[str, int], *, models: bool, delete_at: float
) -> RunDeletion:
    kinds = tx.run_deletions.objects(row.id)
    stored = [ObjectsOfKind(kind=kind.kind, objects=len(kind.keys), bytes=kind.size) for kind in kinds]
    named = {key for kind in kinds for key in kind.keys}
    promoted = tx.run_deletions.models(row.id) if models else []
    if promoted:
        stored.append(ObjectsOfKind(kind="models", objects=len(promoted), bytes=0))
    others = [size for key, size in under_run.items() if key not in named]
    if others:
        stored.append(ObjectsOfKind(kind="other", objects=len(others), bytes=sum(others)))
    return RunDeletion(
        run_id=row.id,
        name=row.name,
        dry_run=True,
        delete_at=delete_at,
        stored=stored,
        bytes=sum(one.bytes for one in stored),
        results=tx.run_deletions.results(row.id) | ({"models": len(promoted)} if promoted else {}),
        cancelled_jobs=[to_job(job) for job in tx.jobs.live_of(row.id)],
        refused=[obstacle.sentence for obstacle in run_deletions.obstacles(tx, row, with_models=models)],
        job=None,
    )


def restore(services: Services, run: str) -> Run:
    """Raises catalog.NotFound, DeletionRefused."""
    with services.catalog.transaction() as tx:
        row = tx.runs.get(run)
        tx.runs.lock(row.id)
        try:
            run_deletions.withdraw(tx, tx.runs.get(row.id))
        except run_deletions.DeletionRefused as error:
            raise DeletionRefused(str(error)) from error
        return to_run(tx.runs.get(row.id))
