"""Refuses bodies that are longer than any request of this API, before they fill the memory."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from phema.services.api.http.problem_documents import render
from phema.services.api.http.problems import TooLarge

MAX_BODY_BYTES = 2**20
_SENTENCE = f"the body must be at most {MAX_BODY_BYTES} bytes"


class BodyLimitMiddleware:
    """Answers 413 when Content-Length or the received body exceeds `MAX_BODY_BYTES`. ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdigit() and int(announced) > MAX_BODY_BYTES:
            await render(TooLarge(_SENTENCE), scope)(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BODY_BYTES:
                # The framework turns every other exception here into "cannot parse the body".
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _SENTENCE)
            return message

        await self._app(scope, counted, send)
