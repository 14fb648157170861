"""`/v1/runs/external`, and for such runs `POST /v1/runs/{run}/snapshots` and `/v1/runs/{run}/finish`."""

from __future__ import annotations

from fastapi import APIRouter, Response

from phema.services.api.external_runs import service
from phema.services.api.external_runs.schemas import ExternalRunOpen, SnapshotRegister
from phema.services.api.http.dependencies import ServicesDep
from phema.services.api.http.problem_documents import problem_responses
from phema.services.api.http.problems import BeingDeleted, NameTaken, NotOpen
from phema.services.api.http.schema_base import RunRef
from phema.services.api.runs.schemas import Run
from phema.services.api.runs.service import to_run
from phema.services.api.snapshots.schemas import Snapshot

router = APIRouter()


@router.post(
    "/v1/runs/external",
    status_code=201,
    summary="Open a run of another training loop",
    tags=["runs"],
    responses={200: {"model": Run, "description": "The run was open already."}, **problem_responses(NameTaken)},
)
def open_external_run(body: ExternalRunOpen, services: ServicesDep, response: Response) -> Run:
    """Open a run that phema does not train. It is running until it is finished or cancelled; no worker claims it.

    The same name, origin and config give the same run, so that a restarted training script continues it.
    """
    with services.catalog.transaction() as tx:
        row, created = service.open_run(tx, body)
    # After the row: if the process dies in between, the repeated request writes the same bytes.
    service.describe(services.store, row)
    response.status_code = 201 if created else 200
    return to_run(row)


@router.post(
    "/v1/runs/{run}/snapshots",
    status_code=201,
    summary="Register an uploaded snapshot",
    tags=["snapshots"],
    responses={
        200: {"model": Snapshot, "description": "The snapshot was registered already."},
        **problem_responses(NotOpen, BeingDeleted),
    },
)
def register_snapshot(run: RunRef, body: SnapshotRegister, services: ServicesDep, response: Response) -> Snapshot:
    """Register a file that is already in the store. Its header must name the same run, time and profile.

    It must have the same tensors as the run's other snapshots: same names, same shapes, the same ones averaged.

    If the run already has this time and profile, nothing changes and the answer is the registered snapshot.
    """
    found = None
    while found is None:
        with services.catalog.transaction(read_only=True) as tx:
            row = service.open_for_snapshots(tx, run)
            known = service.registered(tx, row, body)
            like = tx.snapshots.latest(row.id)
            retention = service.latest_retention(tx, row, body)
        if known is not None:
            response.status_code = 200
            return known
        service.check_object(services.store, row, body, like)
        # A process that died right after opening the run may not have written it; a rebuild of the catalog needs it.
        service.describe(services.store, row)
        # The store is never asked within a transaction that writes: others would wait for it. If retention has begun
        # since, the object may be gone, and everything is checked again.
        with services.catalog.transaction() as tx:
            found = service.register(tx, row.id, body, retention)
    snapshot, created = found
    response.status_code = 201 if created else 200
    return snapshot


@router.post(
    "/v1/runs/{run}/heartbeat",
    summary="Say that an external run goes on",
    tags=["runs"],
    responses=problem_responses(NotOpen),
)
def heartbeat(run: RunRef, services: ServicesDep) -> Run:
    """Tell that the training loop of an open run is alive. Opening the run and registering a snapshot tell it, too.

    A loop that stores a snapshot every few hours, and sends no heartbeat, is known by its usual time between snapshots.
    """
    with services.catalog.transaction() as tx:
        return service.heartbeat(tx, run)


@router.post(
    "/v1/runs/{run}/finish",
    summary="Finish an external run",
    tags=["runs"],
    responses=problem_responses(NotOpen),
)
def finish_run(run: RunRef, services: ServicesDep) -> Run:
    """End a run of another training loop as succeeded. It takes no more snapshots unless it is resumed."""
    with services.catalog.transaction() as tx:
        return service.finish(tx, run)
