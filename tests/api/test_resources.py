"""Resources are found by their folders."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.routing import APIRoute

from phema.services.api import presets, resources
from phema.services.api.app import ROUTERS, create_app
from phema.shared.settings import Settings
from tests.api.documents import ROOT


def test_every_folder_with_endpoints_is_served() -> None:
    folders = {path.parent.name for path in (ROOT / "services" / "api").glob("*/endpoints.py")}
    served = [route.endpoint.__module__.split(".")[-2] for router in ROUTERS for route in _routes(router)]
    assert set(served) == folders - {"pages"}, "pages are routers of their own"


def test_pages_are_no_operations_of_the_api() -> None:
    paths = create_app(Settings()).openapi()["paths"]
    assert {path for path in paths if not path.startswith("/v1/")} == {"/healthz", "/readyz", "/metrics"}


def test_no_route_hides_another() -> None:
    """The first route that matches answers, so a path with parameters must not stand before a literal one."""
    routes = [route for router in ROUTERS for route in _routes(router)]
    for place, route in enumerate(routes):
        hidden_by = [r.path for r in routes[:place] if r.path_regex.match(route.path) and r.methods & route.methods]
        assert not hidden_by, f"{route.path} is never reached: {hidden_by}"


def test_every_tag_is_described_in_the_order_of_the_page() -> None:
    tags = resources.tags(ROUTERS)
    assert [tag["name"] for tag in tags][: len(resources.TAG_ORDER)] == list(resources.TAG_ORDER)
    assert all(tag["description"].endswith(".") for tag in tags)
    new = APIRouter()
    new.add_api_route("/v1/presets/new", lambda: None, tags=["presets"])
    assert resources.tags([*ROUTERS, new])[-1] == {"name": "presets", "description": presets.__doc__}


def _routes(router: APIRouter) -> list[APIRoute]:
    return [route for route in router.routes if isinstance(route, APIRoute)]
