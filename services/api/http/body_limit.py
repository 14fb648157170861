"""No request of this API is long: refuse the rest before it fills the memory."""

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
    """ASGI middleware: answers 413 when the announced or the received body is longer than `MAX_BODY_BYTES`."""

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
                # The only exception the framework lets through while it reads a body.
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _SENTENCE)
            return message

        await self._app(scope, counted, send)
