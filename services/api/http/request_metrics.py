"""Counts, times and logs every request, and answers unexpected exceptions with 500."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterable

from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from phema.services.api.http.problem_documents import METHODS, render
from phema.services.api.http.problems import Internal, Unavailable
from phema.shared.telemetry import Meters
from phema.shared.telemetry.metrics import HTTP_REQUEST_SECONDS, HTTP_REQUESTS

_QUIET = frozenset({"/healthz", "/readyz", "/metrics", "/v1/prometheus/targets"})
_ENDLESS = frozenset({"/v1/events", "/v1/runs/{run}/events"})
"""Routes whose answers end when the viewer leaves. Their duration depends on the viewer, not on the service."""
NO_ROUTE = "none"
"""Route of requests that reach no route. Their paths would make an unlimited number of labels."""

SERVER_ERRORS = (Internal.status, Unavailable.status)
"""Every status from 500 up that the API answers with."""

log = logging.getLogger(__name__)


def start_error_counters(routes: Iterable[BaseRoute], meters: Meters) -> None:
    """Create the counters of server errors at 0: Prometheus's `rate` misses an event that creates its series."""
    known = [
        (route.path_format, method) for route in routes if isinstance(route, Route) for method in route.methods or ()
    ]
    known += [(NO_ROUTE, method) for method in METHODS]
    for (route, method), status in itertools.product(known, SERVER_ERRORS):
        meters.begin(HTTP_REQUESTS, method=method, route=route, status=str(status))


class RequestMetricsMiddleware:
    """ASGI middleware around everything except `RequestIdMiddleware`."""

    def __init__(self, app: ASGIApp, meters: Meters) -> None:
        self._app, self._meters = app, meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status: int | None = None

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if status is not None:
                # Part of the answer has been sent; only a broken connection can tell the client.
                raise
            await render(Internal("phema failed to answer; its log says why"), scope)(scope, receive, watched)
        finally:
            self._record(scope, status or 500, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        route = getattr(scope.get("route"), "path_format", NO_ROUTE)
        self._meters.add(HTTP_REQUESTS, method=method, route=route, status=str(status))
        if route not in _ENDLESS:
            self._meters.observe(HTTP_REQUEST_SECONDS, seconds, method=method, route=route)
        level = logging.DEBUG if route in _QUIET and status < 500 else logging.INFO
        fields = {"method": method, "route": route, "status": status, "seconds": round(seconds, 6)}
        log.log(level, "%s %s %d", method, scope["path"], status, extra=fields)
