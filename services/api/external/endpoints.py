"""Runs of other training loops: `/v1/runs/external`, their snapshots, their end."""

from __future__ import annotations

from fastapi import APIRouter, Response

from phema.services.api.external import service
from phema.services.api.external.schemas import ExternalRunOpen, SnapshotRegister
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
    responses={200: {"model": Run, "description": "The run was there."}, **problem_responses(NameTaken)},
)
def open_external_run(body: ExternalRunOpen, services: ServicesDep, response: Response) -> Run:
    """A run that phema does not train: it is running until it is finished or cancelled, and no worker takes it.

    Asking again with the same name, origin and config gives the same run, so that a training script that is started
    again goes on with it.
    """
    with services.catalog.transaction() as tx:
        row, created = service.open_run(tx, body)
    # After the row: a death in between is mended by the repeat, which writes the same bytes.
    service.describe(services.store, row)
    response.status_code = 201 if created else 200
    return to_run(row)


@router.post(
    "/v1/runs/{run}/snapshots",
    status_code=201,
    summary="Register an uploaded snapshot",
    tags=["snapshots"],
    responses={
        200: {"model": Snapshot, "description": "It was registered."},
        **problem_responses(NotOpen, BeingDeleted),
    },
)
def register_snapshot(run: RunRef, body: SnapshotRegister, services: ServicesDep, response: Response) -> Snapshot:
    """Enter a file that lies in the store into an external run, once its header says the same run, time and profile.

    It must hold the same tensors as the run's other snapshots, in the same shapes, the same ones averaged.

    A time and profile that the run has already is left as it is, and answered with what is registered.
    """
    with services.catalog.transaction(read_only=True) as tx:
        row = service.open_for_snapshots(tx, run)
        known = service.registered(tx, row, body)
        like = tx.snapshots.latest(row.id)
    if known is not None:
        response.status_code = 200
        return known
    service.check_object(services.store, row, body, like)
    # A death right after the run was opened may have left none; a rebuild needs it to find what is registered here.
    service.describe(services.store, row)
    with services.catalog.transaction() as tx:
        snapshot, created = service.register(tx, services.store, row.id, body)
    response.status_code = 201 if created else 200
    return snapshot


@router.post(
    "/v1/runs/{run}/finish",
    summary="Finish an external run",
    tags=["runs"],
    responses=problem_responses(NotOpen),
)
def finish_run(run: RunRef, services: ServicesDep) -> Run:
    """End a run of another training loop as succeeded; it takes no more snapshots unless it is resumed."""
    with services.catalog.transaction() as tx:
        return service.finish(tx, run)
