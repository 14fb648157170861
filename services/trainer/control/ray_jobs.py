"""A small client of Ray's Jobs REST API, with timeouts.

Ray's own client has no timeout: it waited for a minute when the cluster's control store had died.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from phema.shared.ray_token import ray_token

TIMEOUT_SECONDS = 10.0
MOST_NODES = 10_000
# Log lines that do not explain why a driver ended: Ray's own, workers' (they begin with an escape), JSON log lines.
_UNINFORMATIVE = re.compile(r"^\x1b|^\{|^Running entrypoint for job|job_manager\.py")
_TERMINAL = ("STOPPED", "SUCCEEDED", "FAILED")
# How Ray's message begins when it has found no room for a job within RAY_JOB_START_TIMEOUT_SECONDS, 15 minutes.
NO_ROOM = "Job supervisor actor failed to start within"


class RayUnavailable(RuntimeError):
    """Ray's Jobs API does not answer, or answers with an error; the message is one sentence."""


@dataclass(frozen=True)
class RayJob:
    """Ray's view of a submission. Only an ended status is reliable: a job whose node died may stay RUNNING for ever."""

    status: str
    message: str

    @property
    def ended(self) -> bool:
        """Whether the entrypoint has ended."""
        return self.status in _TERMINAL

    @property
    def found_no_room(self) -> bool:
        """Whether Ray has given up on a job that never started, because no node had its resources free."""
        return self.status == "FAILED" and self.message.startswith(NO_ROOM)

    @property
    def pending(self) -> bool:
        """Whether the entrypoint has not started yet."""
        return self.status == "PENDING"

    @property
    def reason(self) -> str:
        """Ray's message and the entrypoint's last informative log line, in one line."""
        summary, _, log = self.message.partition(", last available logs")
        lines = [line.strip() for line in log.splitlines()[1:]]
        informative = [line for line in lines if line and not _UNINFORMATIVE.search(line)]
        parts = [summary.strip().splitlines()[0] if summary.strip() else "it left no message", *informative[-1:]]
        return "; ".join(part[:500] for part in parts)


class RayJobs:
    """Submits, reads and stops Ray jobs by submission id. Every method raises RayUnavailable."""

    def __init__(self, url: str, *, token: str | None = None, timeout_s: float = TIMEOUT_SECONDS) -> None:
        """`url` is that of the dashboard. `token` defaults to the one that Ray's own tools would use. A request without
        an answer for `timeout_s` has failed."""
        token = token or ray_token()
        self._url = url
        self._client = httpx.Client(
            base_url=url,
            timeout=timeout_s,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def submit(
        self,
        submission_id: str,
        entrypoint: str,
        *,
        env: Mapping[str, str],
        metadata: Mapping[str, str],
        resources: Mapping[str, float] | None = None,
    ) -> None:
        """Run `entrypoint` on the cluster. Does nothing if `submission_id` was submitted before.

        Everyone who can see the cluster's dashboard can see `env` and `metadata`. The entrypoint starts on a node that
        has `resources` (CPU, GPU) free, which Ray reserves for it; without them, on the head.
        """
        body = {
            "submission_id": submission_id,
            "entrypoint": entrypoint,
            "runtime_env": {"env_vars": dict(env)},
            "metadata": dict(metadata),
            **{f"entrypoint_num_{kind.lower()}s": amount for kind, amount in (resources or {}).items()},
        }
        answer = self._request("POST", "/api/jobs/", json=body)
        if answer.status_code != 200 and "already exists" not in answer.text:
            raise self._refused(f"job {submission_id} could not be submitted", answer)

    def get(self, submission_id: str) -> RayJob | None:
        """Ray's view of the job; None if Ray does not know the id. A restarted Ray head knows no earlier ids."""
        answer = self._request("GET", f"/api/jobs/{submission_id}")
        if answer.status_code == 404:
            return None
        if answer.status_code != 200:
            raise self._refused(f"the state of job {submission_id} could not be read", answer)
        job: dict[str, Any] = answer.json()
        return RayJob(job["status"], job.get("message") or "")

    def log(self, submission_id: str) -> str:
        """What the entrypoint has written so far. Empty if Ray does not know the job, or its node is gone."""
        answer = self._request("GET", f"/api/jobs/{submission_id}/logs")
        return str(answer.json().get("logs") or "") if answer.status_code == 200 else ""

    def stop(self, submission_id: str) -> None:
        """Ask Ray to end the job: SIGTERM, then SIGKILL. Does nothing if the job has ended or Ray does not know it."""
        answer = self._request("POST", f"/api/jobs/{submission_id}/stop")
        if answer.status_code not in (200, 404):
            raise self._refused(f"job {submission_id} could not be stopped", answer)

    def check(self) -> None:
        """Raises RayUnavailable unless Ray's Jobs API answers."""
        answer = self._request("GET", "/api/version")
        if answer.status_code != 200:
            raise self._refused("work cannot be submitted", answer)

    def cluster_resources(self) -> dict[str, float]:
        """The resources of all nodes that are alive, free or not."""
        answer = self._request("GET", "/api/v0/nodes", params={"limit": MOST_NODES, "detail": 1})
        if answer.status_code != 200:
            raise self._refused("the cluster's nodes could not be read", answer)
        total: Counter[str] = Counter()
        for node in answer.json()["data"]["result"]["result"]:
            if node["state"] == "ALIVE":
                total.update(node["resources_total"])
        return dict(total)

    def _request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            return self._client.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise RayUnavailable(f"Ray does not answer at {self._url}: {type(error).__name__} {error}") from error

    def _refused(self, what: str, answer: httpx.Response) -> RayUnavailable:
        reason = answer.text.strip().splitlines()
        return RayUnavailable(
            f"{what}: Ray at {self._url} answered {answer.status_code} {reason[-1][:300] if reason else ''}"
        )
