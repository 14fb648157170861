"""Finds the resources of the API: every folder beside this file that has a module `endpoints`.

`endpoints.router` is an APIRouter. A tag groups the operations on the page /docs and in the OpenAPI document. A tag
with the name of a folder is described by the docstring of that folder's `__init__.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from inspect import getdoc
from pkgutil import iter_modules

from fastapi import APIRouter
from fastapi.routing import APIRoute

from phema.services import api

SHARED_TAGS = {
    "storage": "Bases, pins and retention: which snapshots a run keeps, and what that costs.",
    "operations": "Probes, metrics, service discovery.",
}
"""Tags of several folders, which therefore have no docstring of their own."""
TAG_ORDER = (
    "runs",
    "snapshots",
    "reconstructions",
    "storage",
    "evaluations",
    "sweeps",
    "searches",
    "samples",
    "previews",
    "models",
    "analyses",
    "reports",
    "jobs",
    "events",
    "operations",
)
"""Order on the page /docs, as in docs/api.md. Other tags follow in alphabetical order."""


def routers() -> list[APIRouter]:
    """One router per resource, in alphabetical order of the folders."""
    names = sorted(module.name for module in iter_modules(api.__path__, f"{api.__name__}.") if module.ispkg)
    return [import_module(f"{name}.endpoints").router for name in names if find_spec(f"{name}.endpoints")]


def tags(found: Iterable[APIRouter]) -> list[dict[str, str]]:
    """The tags of all routes, with their descriptions, as OpenAPI lists them."""
    routes = [route for router in found for route in router.routes if isinstance(route, APIRoute)]
    used = sorted({str(tag) for route in routes for tag in route.tags})
    rank = {tag: place for place, tag in enumerate(TAG_ORDER)}
    return [
        {"name": tag, "description": SHARED_TAGS.get(tag) or _description(tag)}
        for tag in sorted(used, key=lambda tag: rank.get(tag, len(rank)))
    ]


def _description(tag: str) -> str:
    """The docstring of the folder. Raises ModuleNotFoundError, ValueError."""
    text = getdoc(import_module(f"{api.__name__}.{tag}"))
    if not text:
        raise ValueError(f"services/api/{tag}/__init__.py needs a docstring: it describes the tag {tag!r}")
    return text
