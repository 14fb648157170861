"""Many clients that poll and post at the same time, each in a thread with a connection of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import cycle
from statistics import quantiles

import httpx

TIMEOUT_SECONDS = 30.0
PAUSE_SECONDS = 0.2
"""Between two requests of a client."""


@dataclass
class Answers:
    """`errors`: one sentence for every answer of 400 and above, and for every request without an answer."""

    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def p99(self) -> float:
        return quantiles(self.seconds, n=100)[-1]

    @property
    def median(self) -> float:
        return quantiles(self.seconds, n=2)[0]


def poll_and_post(url: str, run: str, *, clients: int, seconds: float, pause: float = PAUSE_SECONDS) -> Answers:
    """`clients` threads that look at the run, its lists and the queue, and ask for plans of reconstructions.

    The run must have a snapshot. Every client does everything at least once, then goes on for `seconds`.
    """
    end = time.monotonic() + seconds
    with ThreadPoolExecutor(clients) as pool:
        parts = list(pool.map(lambda number: _client(url, run, number, end, pause), range(clients)))
    return Answers([s for part in parts for s in part.seconds], [e for part in parts for e in part.errors])


def _client(url: str, run: str, number: int, end: float, pause: float) -> Answers:
    answers = Answers()
    # Without `verify`, every client would spend time on certificates that it does not need.
    with httpx.Client(base_url=url, timeout=TIMEOUT_SECONDS, trust_env=False, verify=False) as client:
        actions: list[Callable[[], httpx.Response]] = [
            lambda: client.get(f"/v1/runs/{run}"),
            lambda: client.get(f"/v1/runs/{run}/metrics"),
            lambda: client.get(f"/v1/runs/{run}/snapshots"),
            lambda: client.get("/v1/jobs", params={"state": "running"}),
            lambda: client.get("/v1/runs"),
            lambda: client.post(
                f"/v1/runs/{run}/reconstructions", json={"sigma_rel": [0.05 + 0.001 * number], "plan_only": True}
            ),
            lambda: client.get("/metrics"),
            lambda: client.post("/v1/runs", json={"name": f"client-{number}", "preset": "no-preset"}),
        ]
        for count, action in enumerate(cycle(actions[number % len(actions) :] + actions[: number % len(actions)])):
            if count >= len(actions) and time.monotonic() >= end:
                return answers
            began = time.monotonic()
            try:
                answer = action()
            except httpx.HTTPError as error:
                answers.errors.append(f"{type(error).__name__}: {error}")
            else:
                answers.seconds.append(time.monotonic() - began)
                # The last action asks for a preset that does not exist.
                expected = 422 if action is actions[-1] else 200
                if answer.status_code != expected:
                    answers.errors.append(f"{answer.request.method} {answer.url}: {answer.status_code} {answer.text}")
            time.sleep(pause)
    raise AssertionError("unreachable")
