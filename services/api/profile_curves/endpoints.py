"""`/v1/runs/{run}/profile-curves`: what a plan's averages look like over training."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from phema.services.api.http.dependencies import Services, ServicesDep
from phema.services.api.http.problem_documents import problem_responses
from phema.services.api.http.problems import Busy, Damaged, NoSnapshots
from phema.services.api.http.schema_base import RunRef
from phema.services.api.profile_curves import schemas, service
from phema.services.api.reconstructions.service import bytes_per_second
from phema.shared.snapshots.planning.profile_curves import profile_curves
from phema.shared.submissions import reconstructions
from phema.shared.submissions.stored_inputs import load_stored_inputs
from phema.shared.submissions.tensor_patterns import check_patterns

router = APIRouter(tags=["reconstructions"])


@router.post(
    "/v1/runs/{run}/profile-curves",
    response_model=schemas.ProfileCurves,
    summary="Curves of a plan",
    responses=problem_responses(NoSnapshots, Damaged, Busy),
)
async def create_profile_curves(run: RunRef, body: schemas.ProfileCurvesCreate, services: ServicesDep) -> Response:
    """Plan a reconstruction as with `plan_only`, and return the weighting of training history that is wanted and that
    is reconstructed, and the share of each snapshot. Nothing is stored and no weights are read."""
    return await services.planning.run(partial(_curves, run, body, services))


def _curves(run: str, body: schemas.ProfileCurvesCreate, services: Services) -> Response:
    with services.catalog.transaction(read_only=True) as tx:
        inputs = load_stored_inputs(tx, run, services.calibrations)
        speed = bytes_per_second(tx)
    planned = reconstructions.plan(inputs, body.request)
    check_patterns(body.pattern_lists, services.store, planned.snapshots)
    found = profile_curves(planned, inputs.bases, body.points)
    return JSONResponse(service.to_profile_curves(planned, found, speed).model_dump(mode="json"))
