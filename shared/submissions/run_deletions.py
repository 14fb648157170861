"""Deletions of runs: what stands against one, and its request. A phema worker deletes (`deletion` there)."""

from __future__ import annotations

from dataclasses import dataclass

from phema.shared import catalog
from phema.shared.catalog import EventKind, JobKind, JobState, Transaction


@dataclass(frozen=True)
class Obstacle:
    """Something that needs the run. `job_id`: the job that does, if the need ends with a job."""

    sentence: str
    job_id: str | None = None


class DeletionRefused(ValueError):
    """The run cannot be deleted, or its deletion cannot be withdrawn. The message is one sentence."""


def obstacles(tx: Transaction, run: catalog.Run, *, with_models: bool) -> list[Obstacle]:
    """What must end, or be deleted, before the run can be deleted."""
    found = []
    if run.state is JobState.RUNNING:
        end = "cancel it first" if run.origin == "trained" else "finish or cancel it first"
        found.append(Obstacle(f"run {run.name} is {run.run_state}; {end}"))
    if not with_models:
        found += [
            Obstacle(
                f"model {model.name}:{model.version} was promoted from run {run.name}; delete it too with models true"
            )
            for model in tx.run_deletions.models(run.id)
        ]
    for fork in tx.run_forks.waiting(run.id):
        found.append(
            Obstacle(
                f"run {fork.name} began from run {run.name} and has no checkpoint of its own yet; wait for its first "
                "checkpoint, or delete it first"
            )
        )
    for use in tx.run_deletions.foreign_uses(run.id):
        sentence = (
            f"the {use.job.kind} job {use.job.id} of run {use.run} needs run {run.name}; wait for it or cancel it"
        )
        found.append(Obstacle(sentence, use.job.id))
    return found


def request(
    tx: Transaction, run: catalog.Run, grace_seconds: float, *, with_models: bool, max_attempts: int
) -> catalog.Job:
    """Set when the run is deleted, cancel its jobs, and queue the job that deletes it. Call with the run locked.

    A repeated request sets the time anew, until the deletion has begun. Raises DeletionRefused.
    """
    if found := obstacles(tx, run, with_models=with_models):
        raise DeletionRefused("; ".join(obstacle.sentence for obstacle in found))
    job = tx.run_deletions.job(run.id)
    if job is not None and not job.state.terminal and tx.run_deletions.has_begun(run.id):
        return job
    at = tx.run_deletions.request(run.id, grace_seconds)
    reason = f"Run {run.name} will be deleted."
    cancelled = [tx.jobs.request_cancel(live.id, reason) for live in tx.jobs.live_of(run.id)]
    # The state was read before the job was locked: a trainer may have claimed it in between.
    if tx.jobs.get(run.job_id).state is JobState.RUNNING:
        raise DeletionRefused(f"run {run.name} has just started; cancel it first")
    if job is not None and job.state is JobState.QUEUED:
        tx.run_deletions.postpone(job, at, with_models=with_models)
    else:
        job, _ = tx.jobs.enqueue(
            JobKind.DELETE,
            payload={"run_id": run.id, "models": with_models},
            content_key=f"delete:{run.id}",
            run_id=run.id,
            max_attempts=max_attempts,
            not_before=at,
            needs=[live.id for live in cancelled if not live.state.terminal],
        )
    tx.run_events.record(run.id, EventKind.DELETE_REQUESTED, details={"delete_at": at}, job_id=job.id)
    return tx.jobs.get(job.id)


def withdraw(tx: Transaction, run: catalog.Run) -> None:
    """Keep the run. Its jobs stay cancelled. Call with the run locked. Raises DeletionRefused."""
    if run.delete_at is None:
        return
    job = tx.run_deletions.job(run.id)
    # The job's row is locked from here on: no worker claims it meanwhile.
    if job is not None and not job.state.terminal:
        job = tx.jobs.request_cancel(job.id, f"Run {run.name} was restored.")
    if tx.run_deletions.has_begun(run.id):
        raise DeletionRefused(f"run {run.name} cannot be restored: its deletion has begun")
    tx.run_deletions.withdraw(run.id)
    tx.run_events.record(run.id, EventKind.RESTORED, job_id=None if job is None else job.id)
