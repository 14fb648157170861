"""Adds the pages, their files, and the page to sign in to an application."""

from __future__ import annotations

from fastapi import FastAPI

from phema.services.api.http.body_format import FORM_PATH
from phema.services.api.http.browser_pages import STATIC
from phema.services.api.http.dependencies import Services
from phema.services.api.pages.rendering import static_files
from phema.services.api.pages.rendering.page import Pages
from phema.services.api.pages.sign_in import SignIn


def install(app: FastAPI, services: Services) -> None:
    """The pages themselves are routes of `endpoints.router`, which the application finds like those of resources."""
    pages = Pages(services)
    app.state.pages, app.state.problem_page = pages, pages.problem
    sign_in = SignIn(pages)
    app.add_route(FORM_PATH, sign_in.__call__, methods=["GET", "POST"])
    app.add_route("/sign-out", sign_in.sign_out, methods=["POST"])
    app.add_route(STATIC + "{hash}/{name}", static_files.serve)
