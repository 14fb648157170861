"""`/v1/system`: the state of the deployment."""

from __future__ import annotations

from fastapi import APIRouter

from phema.services.api.http.dependencies import ServicesDep
from phema.services.api.system import service
from phema.services.api.system.schemas import System

router = APIRouter(tags=["operations"])


@router.get("/v1/system", summary="State of the deployment")
def get_system(services: ServicesDep) -> System:
    """Whether catalog, store, trainers and workers can be used, the queue, and what every run stores."""
    return service.look(services)
