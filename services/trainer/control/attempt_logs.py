"""Keeps the log of each training attempt in the store, where it outlives Ray and the machine.

The log holds the lines of the driver and of its workers. It is kept once Ray says that the attempt has ended.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from phema.services.trainer.control.ray_jobs import RayJobs
from phema.shared.catalog import Job, submission_id
from phema.shared.snapshots import ObjectStore, SnapshotError
from phema.shared.snapshots.stores.object_keys import attempt_log_key
from phema.shared.telemetry import log_fields

LARGEST_LOG = 2**24
"""Bytes. Of a longer log, the end is kept."""
_log = logging.getLogger(__name__)


class AttemptLogs:
    """Used by one thread. A trainer that dies keeps the logs of the attempts that run then, if the next one finds them.

    Two trainers may both keep a log; they write the same object.
    """

    def __init__(self, ray_jobs: RayJobs, store: ObjectStore) -> None:
        self._ray, self._store = ray_jobs, store
        self._waiting: dict[str, Job] = {}

    def keep(self, running: Iterable[Job]) -> None:
        """Keep the logs of the attempts that ran at an earlier call, do not run now, and have ended on Ray.

        Raises RayUnavailable; the next call continues. A log that the store does not take is lost, with a warning.
        """
        now = {submission_id(job.id, job.fence): job for job in running}
        self._waiting |= now
        for name in self._waiting.keys() - now.keys():
            known = self._ray.get(name)
            if known is not None and not known.ended:
                continue
            if known is not None:
                self._put(name, self._waiting[name], self._ray.log(name))
            del self._waiting[name]

    def _put(self, name: str, job: Job, text: str) -> None:
        with log_fields(**job.ids):
            try:
                self._store.put(attempt_log_key(str(job.run_id), name), text.encode()[-LARGEST_LOG:])
            except SnapshotError as error:
                _log.warning("the log of attempt %d is not kept: %s", job.fence, error)
