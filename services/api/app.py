"""The application: routes, errors, and what wraps them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import Depends, FastAPI

from phema.services.api.bases.endpoints import router as bases
from phema.services.api.discovery.endpoints import router as discovery
from phema.services.api.evaluations.endpoints import router as evaluations
from phema.services.api.external.endpoints import router as external
from phema.services.api.health.endpoints import router as health
from phema.services.api.health.service import Probes
from phema.services.api.http import openapi
from phema.services.api.http import problem_documents as problems
from phema.services.api.http.auth import Token, TokenMiddleware
from phema.services.api.http.body_limit import BodyLimitMiddleware
from phema.services.api.http.dependencies import Services
from phema.services.api.http.request_id import RequestIdMiddleware
from phema.services.api.http.request_metrics import RequestMetricsMiddleware, start_error_counters
from phema.services.api.http.validation import refuse_unknown
from phema.services.api.jobs.endpoints import router as jobs
from phema.services.api.presets.endpoints import router as presets
from phema.services.api.reconstructions.endpoints import router as reconstructions
from phema.services.api.retention.endpoints import router as retention
from phema.services.api.runs.endpoints import router as runs
from phema.services.api.snapshots.endpoints import router as snapshots
from phema.shared.settings import Settings
from phema.shared.telemetry import Meters
from phema.shared.wiring import catalog_from, store_from

ROUTERS = (runs, external, snapshots, reconstructions, bases, retention, evaluations, jobs, presets, discovery, health)


def create_app(settings: Settings) -> FastAPI:
    """The API over the catalog and store that the settings name. Touches neither until the first request."""
    secret = settings.api_token
    token = Token(secret.get_secret_value() if secret else None)
    catalog, store, meters = catalog_from(settings), store_from(settings), Meters("api")
    services = Services(settings, catalog, store, token, meters, Probes(settings, catalog, store, meters))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        services.catalog.close()

    app = FastAPI(
        title="phema",
        version=version("phema"),
        description=openapi.DESCRIPTION,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        openapi_tags=openapi.TAGS,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        lifespan=lifespan,
        dependencies=[Depends(refuse_unknown)],
        generate_unique_id_function=lambda route: route.name,
        redirect_slashes=False,
    )
    app.state.services = services
    for router in ROUTERS:
        app.include_router(router)
    start_error_counters([route for router in ROUTERS for route in router.routes], meters)
    problems.install(app)
    openapi.install(app)
    # The last one added is the first to see a request.
    app.add_middleware(BodyLimitMiddleware)
    app.add_middleware(TokenMiddleware, token=token)
    app.add_middleware(RequestMetricsMiddleware, meters=services.meters)
    app.add_middleware(RequestIdMiddleware)
    return app
