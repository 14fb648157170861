"""Idempotency-Key: a request that is repeated gets the answer it got, and the work is done once.

The answer is saved in the transaction that does the work. A process that dies before the commit has done nothing, one
that dies after it has kept its answer; there is nothing in between. Two requests with one key at the same time wait
for each other in the catalog.
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
from phema.services.api.http.errors import KeyReused
from phema.services.api.http.request_id import request_id_of
from phema.services.api.http.schema_base import Answer
from phema.shared.catalog import Catalog, Transaction

KeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern=r"^[!-~]+$",
        description="Any text that is new for every new request; a repeat with the same key and body does nothing "
        "again and gets the same answer.",
    ),
]
REPLAYED = "Idempotency-Replayed"
"""Response header, `true` on an answer that was given before."""


@dataclass(frozen=True)
class Outcome:
    """Status and body of a request that did its work."""

    status: int
    answer: Answer


class Once:
    """Does a request's work at most once per key; every time when there is no key. Its jobs remember the request."""

    def __init__(self, catalog: Catalog, endpoint: str, key: str | None, request_id: str) -> None:
        self._catalog, self._endpoint, self._key, self._request_id = catalog, endpoint, key, request_id

    def replay(self, body: BaseModel) -> Response | None:
        """The answer this request was given before, if any. Raises KeyReused."""
        if self._key is None:
            return None
        with self._catalog.transaction() as tx:
            return self._saved(tx, self._key, body)

    def run(self, body: BaseModel, work: Callable[[Transaction], Outcome]) -> Response:
        """Do `work` and keep its answer in one transaction, or give the answer that was kept. Raises KeyReused."""
        with self._catalog.transaction(request_id=self._request_id) as tx:
            saved = self._saved(tx, self._key, body) if self._key is not None else None
            if saved is not None:
                return saved
            outcome = work(tx)
            content = outcome.answer.model_dump(mode="json")
            if self._key is not None:
                tx.idempotency.save(self._key, self._hash(body), outcome.status, content)
        # Only now: an answer must not leave before what it says is committed.
        return _respond(outcome.status, content, replayed=False)

    def _saved(self, tx: Transaction, key: str, body: BaseModel) -> Response | None:
        record = tx.idempotency.get(key)
        if record is None:
            return None
        if record.request_hash != self._hash(body):
            raise KeyReused(f"Idempotency-Key {key!r} was used for another request; take a new key for a new request")
        return _respond(record.status, record.body, replayed=True)

    def _hash(self, body: BaseModel) -> str:
        """Of what was asked, not how it was written: order of keys and spaces do not count."""
        asked = json.dumps(body.model_dump(mode="json", exclude_unset=True), sort_keys=True)
        return hashlib.sha256(f"{self._endpoint}\n{asked}".encode()).hexdigest()


def _once(request: Request, services: ServicesDep, key: KeyHeader = None) -> Once:
    return Once(services.catalog, f"{request.method} {request.url.path}", key, request_id_of(request.scope))


OnceDep = Annotated[Once, Depends(_once)]


def _respond(status: int, content: Any, *, replayed: bool) -> Response:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Response(text, status, {REPLAYED: "true"} if replayed else None, "application/json")
