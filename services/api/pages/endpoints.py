"""The addresses of all pages. They are no part of the OpenAPI document."""

from __future__ import annotations

from fastapi import APIRouter

from phema.services.api.pages import evaluations_page, jobs_page, models_page, studies_page, system_page
from phema.services.api.pages.explorer import explorer_page
from phema.services.api.pages.runs import compare_page, deletion_page, run_page, runs_page

router = APIRouter(include_in_schema=False)
for module in (
    runs_page,
    run_page,
    deletion_page,
    compare_page,
    explorer_page,
    evaluations_page,
    studies_page,
    models_page,
    jobs_page,
    system_page,
):
    router.include_router(module.router)
