"""Retention: what a policy would do, and the transaction that retires snapshots for good.

That transaction holds the run's lock, retires the rows and queues the job that deletes their objects. Plans do not see
retired snapshots. The job may die anywhere and be repeated (`phema.services.phema_worker.retain`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from phema.services.api.http.idempotency import EndpointResult
from phema.services.api.http.problems import Invalid, RetentionRefused
from phema.services.api.jobs.service import to_job
from phema.services.api.retention import schemas
from phema.services.api.snapshots.service import to_snapshot
from phema.shared import catalog
from phema.shared.catalog import Catalog, JobKind, JobState, Transaction, content_key
from phema.shared.snapshots.planning import retention
from phema.shared.snapshots.planning.retention import DECAYS, GRID, Decision, Forecast, Policy, RetentionError
from phema.shared.snapshots.planning.stored_plan import planned_snapshot_ids
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.submissions.stored_inputs import StoredInputs, as_stored, load_stored_inputs


@dataclass(frozen=True)
class RetentionInputs:
    """What a policy is applied to. Quick to read, because it is read again while the catalog is locked."""

    run: catalog.Run
    snapshots: tuple[StoredSnapshot, ...]
    compacted: frozenset[int]
    """Times with a finished basis."""
    pinned: frozenset[str]
    in_use: frozenset[str]

    def decide(self, policy: Policy) -> Decision:
        """Raises Invalid."""
        protected = self.pinned | self.in_use
        try:
            return retention.decide(self.snapshots, policy, held=protected, compacted=self.compacted)
        except RetentionError as error:
            raise Invalid.of(error.field, str(error)) from error


@dataclass(frozen=True)
class Considered:
    """A policy, what it is applied to, what it would do, and how that changes the errors of reconstructions."""

    policy: Policy
    inputs: RetentionInputs
    decision: Decision
    forecasts: tuple[Forecast, ...]

    def document(self, body: schemas.RetentionCreate) -> schemas.Retention:
        """As the answer to a dry run."""
        return to_retention(self.inputs, self.policy, body, self.decision, self.forecasts)


def consider(catalog: Catalog, run: str, body: schemas.RetentionCreate) -> Considered:
    """What the policy would do. Changes nothing. Raises catalog.NotFound, Invalid."""
    policy = policy_of(body)
    with catalog.transaction(read_only=True) as tx:
        found, stored = read_inputs(tx, run), load_stored_inputs(tx, run)
    # Solved outside any transaction: on SQLite, an open transaction makes every writer wait.
    decision = found.decide(policy)
    return Considered(policy, found, decision, forecast(stored, decision, body.at))


def read_inputs(tx: Transaction, run: str) -> RetentionInputs:
    """Raises catalog.NotFound."""
    row = tx.runs.get(run)
    rows = tx.snapshots.list(row.id)
    return RetentionInputs(
        row,
        tuple(map(as_stored, rows)),
        frozenset(tx.bases.times(row.id)),
        frozenset(snapshot.id for snapshot in rows if snapshot.pinned),
        frozenset(_read_by_jobs(tx, row.id) | _rewritable(tx, row, rows)),
    )


def policy_of(body: schemas.RetentionCreate) -> Policy:
    """Raises Invalid."""
    try:
        match body.policy:
            case "thin":
                return retention.ThinByAge() if body.coarsest is None else retention.ThinByAge(body.coarsest)
            case "basis":
                return retention.BasisOnly(body.times)
            case "latest":
                return retention.KeepLatest(body.keep or 0)
            case "all":
                return retention.KeepAll()
    except RetentionError as error:
        raise Invalid.of(error.field, str(error)) from error


def forecast(inputs: StoredInputs, decision: Decision, at: Sequence[int] | None) -> tuple[Forecast, ...]:
    """Raises Invalid."""
    try:
        return retention.forecast(
            decision,
            times=at,
            bases=inputs.bases,
            probes=inputs.probes,
            update_images=inputs.update_images,
        )
    except RetentionError as error:
        raise Invalid.of(error.field, str(error)) from error


def to_retention(
    found: RetentionInputs,
    policy: Policy,
    body: schemas.RetentionCreate,
    decision: Decision,
    forecasts: Sequence[Forecast],
    job: catalog.Job | None = None,
) -> schemas.Retention:
    unprotected = replace(found, pinned=frozenset(), in_use=frozenset()).decide(policy)
    wanted = {snapshot.id for snapshot in unprotected.dropped}
    return schemas.Retention(
        policy=body.policy,
        dry_run=body.dry_run,
        frees=_amount(decision.dropped),
        keeps=_amount(decision.kept),
        pinned=len(wanted & found.pinned),
        in_use=len(wanted & found.in_use - found.pinned),
        times_lost=len(decision.times_lost),
        forecasts=[
            schemas.Forecast(
                num_images=line.num_images,
                errors=[
                    schemas.ForecastLine(sigma_rel=sigma_rel, before=before, after=after)
                    for sigma_rel, before, after in zip(GRID, line.before, line.after, strict=True)
                ],
                decays=[
                    schemas.DecayForecastLine(shape=shape, length_images=line.decay_images, before=before, after=after)
                    for shape, before, after in zip(DECAYS, line.decays_before, line.decays_after, strict=True)
                ],
            )
            for line in forecasts
        ],
        refused=None if body.force else retention.refusal(policy, decision, forecasts),
        job=to_job(job) if job else None,
    )


def apply(
    tx: Transaction,
    run_id: str,
    policy: Policy,
    body: schemas.RetentionCreate,
    forecasts: Sequence[Forecast],
    *,
    max_attempts: int,
) -> EndpointResult:
    """Retire what the policy drops and queue the job that deletes it. Raises Invalid, RetentionRefused.

    Decides again: since the forecast, snapshots may have been added, pinned or planned to be read.
    """
    tx.runs.lock(run_id)
    found = read_inputs(tx, run_id)
    decision = found.decide(policy)
    refused = None if body.force else retention.refusal(policy, decision, forecasts)
    if refused is not None:
        raise RetentionRefused(refused)
    tx.snapshots.retire(snapshot.id for snapshot in decision.dropped)
    # Includes those that a cancelled or failed job has not deleted.
    to_delete = sorted(row.id for row in tx.snapshots.retired(run_id))
    job = None
    if to_delete:
        job, _ = tx.jobs.enqueue(
            JobKind.RETAIN,
            payload={"run_id": run_id, "policy": body.policy, "snapshots": len(to_delete)},
            content_key=content_key("retain", to_delete),
            run_id=run_id,
            max_attempts=max_attempts,
        )
    return EndpointResult(202 if job else 200, to_retention(found, policy, body, decision, forecasts, job))


def pin(tx: Transaction, run: str, body: schemas.PinCreate) -> schemas.Pinned:
    """Raises catalog.NotFound, Invalid."""
    run_id = tx.runs.get(run).id
    tx.runs.lock(run_id)
    rows = tx.snapshots.list(run_id)
    if body.snapshot_ids is not None:
        known = {row.id for row in rows}
        unknown = next((one for one in body.snapshot_ids if one not in known), None)
        if unknown is not None:
            raise Invalid.of("snapshot_ids", f"snapshot_ids {unknown} is no snapshot of run {run}")
        chosen = set(body.snapshot_ids)
    else:
        assert body.num_images is not None, "the request has one of both"
        chosen = {row.id for row in rows if row.num_images == body.num_images}
        if not chosen:
            raise Invalid.of("num_images", f"num_images {body.num_images} has no snapshot in run {run}")
        tx.checkpoints.set_pinned(run_id, body.num_images, body.pinned)
    tx.snapshots.set_pinned(chosen, body.pinned)
    return schemas.Pinned(snapshots=[to_snapshot(row) for row in tx.snapshots.list(run_id) if row.id in chosen])


def _read_by_jobs(tx: Transaction, run_id: str) -> set[str]:
    """Ids of the snapshots in the plans of queued and running jobs."""
    plans = [row.plan for row in tx.reconstructions.under_way(run_id)]
    plans += [row.plan for row in tx.bases.under_way(run_id)]
    plans += [row.plan for row in tx.previews.under_way(run_id)]
    return {snapshot_id for plan in plans for snapshot_id in planned_snapshot_ids(plan)}


def _rewritable(tx: Transaction, run: catalog.Run, rows: Sequence[catalog.Snapshot]) -> set[str]:
    """Ids of the snapshots that training would write again when it continues from the oldest checkpoint left.

    They must stay: a trainer writes the object first and the row after it. If retention deleted the object in between,
    the row would name a missing object.
    """
    if run.origin != "trained" or run.state is JobState.SUCCEEDED:
        return set()
    checkpoints = tx.checkpoints.all_but_latest(run.id, 0)
    safe = checkpoints[0].num_images if checkpoints else 0
    return {row.id for row in rows if row.num_images > safe}


def _amount(snapshots: Sequence[StoredSnapshot]) -> schemas.Amount:
    return schemas.Amount(snapshots=len(snapshots), bytes=sum(snapshot.size for snapshot in snapshots))
