"""`client.jobs`: the job queue."""

from __future__ import annotations

from phema.client.response_models import Job
from phema.client.transport import Transport, route


class Jobs:
    """Requests about jobs."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(
        self, kind: str | None = None, state: str | None = None, run: str | None = None, limit: int | None = None
    ) -> list[Job]:
        """Jobs, newest first: all, or those of a kind, state or run; at most `limit`."""
        pages = self._transport.pages("/v1/jobs", limit, kind=kind, state=state, run=run)
        return [Job.model_validate(item) for item in pages]

    def get(self, job: str) -> Job:
        """The job with this id."""
        return Job.model_validate(self._transport.get(route("jobs", job)))

    def cancel(self, job: str) -> Job:
        """Cancel a job. A queued job is cancelled at once, a running one at its next step."""
        return Job.model_validate(self._transport.post(route("jobs", job, "cancel")))
