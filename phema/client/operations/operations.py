"""What all operations share: the connection, the groups of resources, and waiting."""

from __future__ import annotations

import os
from collections.abc import Callable

from phema.client.polling import POLL_SECONDS, wait_for_job
from phema.client.resources.analyses import Analyses
from phema.client.resources.bases import Bases
from phema.client.resources.evaluations import Evaluations
from phema.client.resources.jobs import Jobs
from phema.client.resources.models import Models
from phema.client.resources.previews import Previews
from phema.client.resources.reconstructions import Reconstructions
from phema.client.resources.runs import Runs
from phema.client.resources.samples import Samples
from phema.client.resources.searches import Searches
from phema.client.resources.sweeps import Sweeps
from phema.client.response_models import Job
from phema.client.service_discovery import find_url
from phema.client.transport import Transport


class Operations:
    """Base class: a connection to one service, and the groups of resources."""

    def __init__(self, url: str | None = None, token: str | None = None) -> None:
        self._transport = Transport(url or find_url(), token or os.environ.get("PHEMA_API_TOKEN"))
        self.url = self._transport.url
        self.runs = Runs(self._transport)
        self.reconstructions = Reconstructions(self._transport)
        self.evaluations = Evaluations(self._transport)
        self.sweeps = Sweeps(self._transport)
        self.searches = Searches(self._transport)
        self.samples = Samples(self._transport)
        self.previews = Previews(self._transport)
        self.models = Models(self._transport)
        self.bases = Bases(self._transport)
        self.jobs = Jobs(self._transport)
        self.analyses = Analyses(self._transport)

    def wait(
        self,
        job: str | Job,
        *,
        on_progress: Callable[[Job], None] | None = None,
        timeout: float | None = None,
        poll_seconds: float = POLL_SECONDS,
    ) -> Job:
        """Poll a job until it succeeds, and return it. `on_progress` gets every state.

        Tolerates an outage of the service of up to one minute. Raises JobFailed if the job fails or is cancelled, and
        WaitTimeout after `timeout` seconds.
        """
        identity = job if isinstance(job, str) else job.id
        return wait_for_job(self._transport, identity, on_progress, timeout, poll_seconds)
