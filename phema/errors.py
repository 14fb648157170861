"""Everything the client raises, drawn once.

PhemaError                 one sentence for the user
├── InvalidArgument        the arguments make no sense; nothing was asked of the service (also a ValueError)
├── Refused                the API said no (4xx): `.status`, `.problem`
│   ├── Unauthorized       401, 403: the token is missing or wrong
│   ├── NotFound           404
│   └── Conflict           409: the name is taken, or the work it needs is not finished
├── ServiceError           the API is there and cannot answer (5xx): `.status`, `.request_id`
├── ServiceUnreachable     nothing answers at that address
├── JobFailed              the awaited job ended as failed or cancelled: `.job_id`, `.state`
├── WaitTimeout            the awaited job is still going: `.job_id`
└── DownloadError          the bytes did not arrive whole, or are not the ones recorded
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class PhemaError(Exception):
    """Base of all errors of the client; `str(error)` is one sentence for the user."""


class InvalidArgument(PhemaError, ValueError):
    """What was given is impossible, known before anything was sent or read."""


class Refused(PhemaError):
    """The API refused the request; `.status` is the HTTP status, `.problem` the RFC 9457 document."""

    def __init__(self, sentence: str, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(sentence)
        self.status = status
        self.problem = dict(problem)


class Unauthorized(Refused):
    """The request carried no token, or a wrong one."""


class NotFound(Refused):
    """There is no such run, job, reconstruction, …"""


class Conflict(Refused):
    """The name is taken, or what the request builds on is not finished."""


class ServiceError(PhemaError):
    """The API answered with a 5xx status: its database or store is away, or it is broken.

    The sentence ends with the id of the request, under which the API's log says more, if the answer had one.
    """

    def __init__(self, sentence: str, status: int, request_id: str | None = None) -> None:
        super().__init__(f"{sentence} (request {request_id})" if request_id else sentence)
        self.status = status
        self.request_id = request_id


class ServiceUnreachable(PhemaError):
    """No API answers at the address."""


class JobFailed(PhemaError):
    """A job that was waited for ended without its result."""

    def __init__(self, sentence: str, job_id: str, state: str) -> None:
        super().__init__(sentence)
        self.job_id = job_id
        self.state = state


class WaitTimeout(PhemaError):
    """The time given to `wait` is over; the job goes on."""

    def __init__(self, sentence: str, job_id: str) -> None:
        super().__init__(sentence)
        self.job_id = job_id


class DownloadError(PhemaError):
    """A download broke off for good, or its checksum is not the recorded one."""
