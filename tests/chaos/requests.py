"""Requests of a patient client: each has an Idempotency-Key and is repeated until the API answers it for good."""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx

from phema.services.api.http.problem_documents import TYPE_PREFIX

PAUSE_SECONDS = 0.3
_JOB = re.compile(r"job-[0-9a-f]{6,}")

EXPECTED_REFUSALS = {"no-snapshots", "not-finished", "snapshots-gone", "being-deleted", "retention-refused"}
"""Answers of status 409 that depend on what other requests and jobs have done meanwhile."""


class Stopped(Exception):
    """The storm ends, and the request was not answered."""


@dataclass(frozen=True)
class Accepted:
    """A request that was answered with 2xx, and the jobs that its answer names."""

    kind: str
    path: str
    body: dict[str, Any]
    jobs: tuple[str, ...]
    answer: dict[str, Any] = field(repr=False)


class Requests:
    """Sends requests from any thread. `accepted` and `refused` are what the API has promised and denied."""

    def __init__(self, url: str, stopping: threading.Event) -> None:
        self._http = httpx.Client(base_url=url, timeout=httpx.Timeout(30.0, connect=3.0))
        self._stopping = stopping
        self.accepted: list[Accepted] = []
        self.refused: Counter[str] = Counter()
        self.unexpected: list[str] = []
        self.repeats = 0

    def close(self) -> None:
        self._http.close()

    def post(self, kind: str, path: str, body: dict[str, Any] | None = None) -> Accepted | None:
        """None when the API refuses the request. Raises Stopped."""
        answer = self._answer("POST", path, json=body or {}, headers={"Idempotency-Key": uuid.uuid4().hex})
        if answer.status_code >= 400:
            self._refused(path, answer)
            return None
        document = answer.json()
        jobs = tuple(dict.fromkeys(_JOB.findall(answer.text)))
        accepted = Accepted(kind, path, body or {}, jobs, document)
        self.accepted.append(accepted)
        return accepted

    def get(self, path: str, **params: Any) -> Any:
        """The document, or None when there is no such thing. Raises Stopped."""
        answer = self._answer("GET", path, params=params)
        return answer.json() if answer.status_code < 400 else None

    def _answer(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        while True:
            try:
                answer = self._http.request(method, path, **arguments)
            except httpx.TransportError:
                pass
            else:
                if answer.status_code < 500:
                    return answer
                if answer.status_code == 500:
                    self.unexpected.append(f"{path}: 500 {answer.text[:500]}")
            self.repeats += 1
            if self._stopping.is_set():
                raise Stopped
            time.sleep(PAUSE_SECONDS)

    def _refused(self, path: str, answer: httpx.Response) -> None:
        problem = answer.json()
        name = str(problem.get("type", "")).removeprefix(TYPE_PREFIX)
        self.refused[name] += 1
        # Retention may delete a time after the workload has chosen it.
        if name not in EXPECTED_REFUSALS and "has no snapshot" not in str(problem.get("detail")):
            self.unexpected.append(f"{path}: {answer.status_code} {problem.get('detail')}")
