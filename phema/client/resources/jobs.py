"""`client.jobs`: the job queue."""

from __future__ import annotations

from phema.client.log_streams import LogStream
from phema.client.resources.watched import Watched, filter_of, identity_of
from phema.client.response_models import Job, Run
from phema.client.rows import Rows
from phema.client.transport import route


class Jobs(Watched[Job]):
    """Requests about jobs."""

    def list(
        self,
        kind: str | None = None,
        state: str | None = None,
        run: str | Run | None = None,
        limit: int | None = None,
        parent: str | None = None,
    ) -> Rows[Job]:
        """Jobs, newest first: all, or those of a kind, state, run or parent; at most `limit`.

        The parts of evaluations (kind `draw`) are left out unless `kind` or `parent` asks for them.
        """
        pages = self._transport.pages("/v1/jobs", limit, kind=kind, state=state, run=filter_of(run), parent=parent)
        return Rows(Job.read(item) for item in pages)

    def get(self, job: str | Job, /) -> Job:
        """The job with this id."""
        return Job.read(self._transport.get(route("jobs", identity_of(job))))

    def cancel(self, job: str | Job, *, tree: bool = False) -> Job:
        """Cancel a job. A queued job is cancelled at once, a running one at its next step.

        Jobs that it enqueued, and that nothing else needs, are cancelled with it. With `tree`, so are those that need
        it; without, these go on, and most of them fail.
        """
        return Job.read(self._transport.post(route("jobs", identity_of(job), "cancel"), tree=str(tree).lower()))

    def logs(self, job: str | Job, attempt: int | None = None, *, follow: bool = False) -> LogStream:
        """The log of an attempt at a training; by default of the latest. Iterate over it for pieces of text.

        With `follow`, the iteration waits for new lines, and ends when the attempt has ended and its log is complete.
        Raises NotFound when there is no log, with a sentence that says why.
        """
        return LogStream(self._transport, route("jobs", identity_of(job), "logs"), attempt, follow)
