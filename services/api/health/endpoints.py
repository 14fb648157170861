"""`/healthz`, `/readyz`, `/metrics`."""

from __future__ import annotations

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from phema.services.api.health.schemas import Health, Readiness
from phema.services.api.http.dependencies import ServicesDep

router = APIRouter(tags=["operations"])


@router.get("/healthz", summary="Liveness probe")
def get_health() -> Health:
    """Answers as long as the process runs. Needs no token."""
    return Health()


@router.get(
    "/readyz",
    summary="Readiness probe",
    responses={503: {"model": Readiness, "description": "Catalog or store cannot be used; the body names which."}},
)
def get_readiness(request: Request, response: Response, services: ServicesDep) -> Readiness:
    """Whether catalog and store can be used. Needs no token; with the token, the answer also says what is wrong."""
    explain = services.token.accepts(request.headers)
    answer = services.probes.readiness(explain=explain)
    response.status_code = 200 if answer.status == "ready" else 503
    return answer


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Text format."}},
)
def get_metrics(services: ServicesDep) -> Response:
    """Requests by route and status, and the queue by kind and state. docs/metrics.md lists every metric."""
    return Response(services.probes.scrape(), media_type=CONTENT_TYPE_LATEST)
