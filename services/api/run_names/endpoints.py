"""`/v1/runs/{run}/rename`: give a run another name."""

from __future__ import annotations

from fastapi import APIRouter

from phema.services.api.http.dependencies import ServicesDep
from phema.services.api.http.problem_documents import problem_responses
from phema.services.api.http.problems import NameTaken, Unavailable
from phema.services.api.http.schema_base import RunRef
from phema.services.api.run_names import service
from phema.services.api.run_names.schemas import RunRename
from phema.services.api.runs.schemas import Run

router = APIRouter(tags=["runs"])


@router.post("/v1/runs/{run}/rename", summary="Rename a run", responses=problem_responses(NameTaken, Unavailable))
def rename_run(run: RunRef, body: RunRename, services: ServicesDep) -> Run:
    """Give a run another name, also while it trains. Its id and everything that was made of it stay.

    The old name is free afterwards. A rebuild from the bucket gives the new name.
    """
    return service.rename(services, run, body.name)
