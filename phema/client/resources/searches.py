"""`client.searches`: searches for the best EMA length and guidance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from phema.client.polling import POLL_SECONDS, wait_for_job
from phema.client.resources.watched import Watched, filter_of, identity_of
from phema.client.response_models import Job, Run
from phema.client.rows import Rows
from phema.client.study_models import Search
from phema.client.transport import route


class Searches(Watched[Search]):
    """Requests about searches. `run` is a name or an id."""

    def create(
        self, /, run: str | Run, *, wait: bool = True, on_progress: Callable[[Job], None] | None = None, **request: Any
    ) -> Search:
        """As `Client.search`."""
        body = {name: value for name, value in request.items() if value is not None}
        asked = Search.read(self._transport.post("/v1/searches", {"run": identity_of(run), **body}))
        if wait and not asked.done:
            wait_for_job(self._transport, asked.job.id, on_progress, None, POLL_SECONDS)
        return self.get(asked.id)

    def get(self, search: str | Search, /) -> Search:
        """The search with this id, with its points so far."""
        return Search.read(self._transport.get(route("searches", identity_of(search))))

    def list(self, run: str | Run | None = None, limit: int | None = None) -> Rows[Search]:
        """The searches of one run, or of all runs, newest first and without their points; at most `limit`."""
        return Rows(Search.read(item) for item in self._transport.pages("/v1/searches", limit, run=filter_of(run)))

    def cancel(self, search: str | Search) -> Search:
        """Cancel a search. Points that are evaluated stay; the same request continues the search."""
        self._transport.post(route("jobs", self.get(search).job.id, "cancel"))
        return self.get(search)
