"""Idempotency-Key: a repeated request gets the answer of the first one, and its work is done once.

The answer is saved in the transaction that does the work. A process that dies before the commit has done nothing; one
that dies after the commit has kept the answer. Of two requests that carry the same key at the same time, the catalog
makes the second wait for the first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Header, Request
from pydantic import BaseModel
from starlette.responses import Response

from phema.services.api.http.dependencies import ServicesDep
from phema.services.api.http.problems import KeyReused
from phema.services.api.http.request_id import request_id_of
from phema.services.api.http.schema_base import ResponseModel
from phema.shared.catalog import Catalog, Transaction

KEY_HEADER = "Idempotency-Key"
KeyHeader = Annotated[
    str | None,
    Header(
        alias=KEY_HEADER,
        min_length=1,
        max_length=200,
        pattern=r"^[!-~]+$",
        description="Any text that is new for every new request. A repeat with the same key and body does no new work "
        "and gets the same answer.",
    ),
]
REPLAYED = "Idempotency-Replayed"
"""Response header, `true` on an answer that was saved before."""


@dataclass(frozen=True)
class EndpointResult:
    """HTTP status and body of a request that did its work."""

    status: int
    answer: ResponseModel


class Idempotency:
    """Runs the work of one request, at most once per Idempotency-Key; without a key, every time.

    Jobs that the work enqueues remember `request_id`.
    """

    def __init__(self, catalog: Catalog, endpoint: str, key: str | None, request_id: str) -> None:
        self._catalog, self._endpoint, self._key, self._request_id = catalog, endpoint, key, request_id

    def saved_response(self, body: BaseModel) -> Response | None:
        """The saved answer to this request; None if there is none. Raises KeyReused."""
        if self._key is None:
            return None
        with self._catalog.transaction() as tx:
            return self._saved(tx, self._key, body)

    def run(self, body: BaseModel, work: Callable[[Transaction], EndpointResult]) -> Response:
        """Do `work` and save its answer in one transaction, or return the saved answer. Raises KeyReused."""
        with self._catalog.transaction(request_id=self._request_id) as tx:
            saved = self._saved(tx, self._key, body) if self._key is not None else None
            if saved is not None:
                return saved
            result = work(tx)
            content = result.answer.model_dump(mode="json")
            if self._key is not None:
                tx.idempotency.save(self._key, self._hash(body), result.status, content)
        # After the commit: an answer must not leave before its content is stored.
        return _respond(result.status, content, replayed=False)

    def _saved(self, tx: Transaction, key: str, body: BaseModel) -> Response | None:
        record = tx.idempotency.get(key)
        if record is None:
            return None
        if record.request_hash != self._hash(body):
            raise KeyReused(f"Idempotency-Key {key!r} was used for another request; take a new key for a new request")
        return _respond(record.status, record.body, replayed=True)

    def _hash(self, body: BaseModel) -> str:
        """SHA-256 of the endpoint and the body; the order of keys and white space do not matter."""
        asked = json.dumps(body.model_dump(mode="json", exclude_unset=True), sort_keys=True)
        return hashlib.sha256(f"{self._endpoint}\n{asked}".encode()).hexdigest()


def _idempotency(request: Request, services: ServicesDep, key: KeyHeader = None) -> Idempotency:
    return Idempotency(services.catalog, f"{request.method} {request.url.path}", key, request_id_of(request.scope))


IdempotencyDep = Annotated[Idempotency, Depends(_idempotency)]


def _respond(status: int, content: Any, *, replayed: bool) -> Response:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Response(text, status, {REPLAYED: "true"} if replayed else None, "application/json")
