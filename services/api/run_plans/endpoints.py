"""`/v1/run-plans`: what a run would be and cost, without creating it."""

from __future__ import annotations

from fastapi import APIRouter

from phema.services.api.http.dependencies import ServicesDep
from phema.services.api.http.problem_documents import problem_responses
from phema.services.api.http.problems import NameTaken
from phema.services.api.run_plans import service
from phema.services.api.run_plans.schemas import RunPlan, RunPlanCreate

router = APIRouter(tags=["runs"])


@router.post("/v1/run-plans", summary="Plan a training run", responses=problem_responses(NameTaken))
def plan_run(body: RunPlanCreate, services: ServicesDep) -> RunPlan:
    """The complete configuration, its cost, and every mistake at once. Nothing is created.

    With `dataset`, the API reads the dataset: its files are listed, and up to 256 pictures are decoded.
    """
    planned = service.configure(body, services, name=body.name)
    with services.catalog.transaction(read_only=True) as tx:
        return service.plan(tx, planned)
