"""What the functions of pages receive."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from phema.services.api.pages.rendering.page import Pages


def _pages(request: Request) -> Pages:
    pages: Pages = request.app.state.pages
    return pages


PagesDep = Annotated[Pages, Depends(_pages)]
