"""The FastAPI application: the routers of all resources, error handlers and middleware."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import Depends, FastAPI

from phema.services.api import resources
from phema.services.api.events.event_stream import EventStream
from phema.services.api.health.service import Probes
from phema.services.api.http import docs_page, openapi, problem_documents
from phema.services.api.http.auth import Token, TokenMiddleware
from phema.services.api.http.body_format import BodyFormatMiddleware
from phema.services.api.http.body_limit import BodyLimitMiddleware
from phema.services.api.http.cross_site import CrossSiteMiddleware
from phema.services.api.http.dependencies import Services
from phema.services.api.http.request_id import RequestIdMiddleware
from phema.services.api.http.request_metrics import RequestMetricsMiddleware, start_error_counters
from phema.services.api.http.validation import refuse_unknown
from phema.services.api.pages.install import install as install_pages
from phema.shared.settings import Settings
from phema.shared.submissions.run_calibrations import RunCalibrations
from phema.shared.telemetry import Meters
from phema.shared.wiring import catalog_from, store_from

ROUTERS = resources.routers()


def create_app(settings: Settings) -> FastAPI:
    """The API over the catalog and store that the settings name. Connects to neither until the first request."""
    secret = settings.api_token
    token = Token(secret.get_secret_value() if secret else None)
    catalog, store, meters = catalog_from(settings), store_from(settings), Meters("api")
    probes, calibrations = Probes(settings, catalog, store, meters), RunCalibrations(catalog)
    services = Services(settings, catalog, store, token, meters, probes, calibrations, EventStream(catalog))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        services.events.close()
        services.catalog.close()

    app = FastAPI(
        title="phema",
        version=version("phema"),
        description=openapi.DESCRIPTION,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        openapi_tags=resources.tags(ROUTERS),
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        dependencies=[Depends(refuse_unknown)],
        generate_unique_id_function=lambda route: route.name,
        redirect_slashes=False,
    )
    app.state.services = services
    for router in ROUTERS:
        app.include_router(router)
    start_error_counters([route for router in ROUTERS for route in router.routes], meters)
    problem_documents.install(app)
    openapi.install(app)
    docs_page.install(app)
    install_pages(app, services)
    # The middleware that is added last sees a request first.
    app.add_middleware(BodyLimitMiddleware)
    app.add_middleware(BodyFormatMiddleware)
    if secret is None:
        app.add_middleware(CrossSiteMiddleware, allowed_hosts=settings.allowed_hosts)
    app.add_middleware(TokenMiddleware, token=token)
    app.add_middleware(RequestMetricsMiddleware, meters=services.meters)
    app.add_middleware(RequestIdMiddleware)
    return app
