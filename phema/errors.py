"""Every error that phema's Python interface raises.

PhemaError                 base class; the text is one sentence for the user
├── InvalidArgument        an argument is invalid; no request was sent (also a ValueError)
├── MissingPackages        an extra of phema is not installed: `.extra`
├── Refused                the API refused the request (4xx): `.status`, `.problem`
│   ├── Unauthorized       401, 403: the token is missing or wrong
│   ├── NotFound           404
│   └── Conflict           409: the name is taken, or the request depends on work that is not finished
├── ServiceError           the API failed to answer (5xx): `.status`, `.request_id`
├── ServiceUnreachable     no API answers at the address
├── JobFailed              the awaited job failed or was cancelled: `.job_id`, `.state`
├── WaitTimeout            the awaited job did not finish in time: `.job_id`
└── DownloadError          a download stopped, or its checksum is wrong
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class PhemaError(Exception):
    """Base class of the errors above; `str(error)` is one sentence for the user."""


class InvalidArgument(PhemaError, ValueError):
    """An argument is invalid. Raised before a request is sent."""


class MissingPackages(PhemaError):
    """An operation needs packages that only an extra of phema brings; `.extra` is its name."""

    def __init__(self, extra: str, what: str = "this") -> None:
        super().__init__(f"{what} needs the {extra} packages: pip install 'phema[{extra}]'")
        self.extra = extra


class Refused(PhemaError):
    """The API refused the request; `.status` is the HTTP status, `.problem` the RFC 9457 document."""

    def __init__(self, sentence: str, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(sentence)
        self.status = status
        self.problem = dict(problem)


class Unauthorized(Refused):
    """The request carried no token, or a wrong one."""


class NotFound(Refused):
    """The run, job, reconstruction, … does not exist."""


class Conflict(Refused):
    """The name is taken, or the request depends on work that is not finished."""


class ServiceError(PhemaError):
    """The API answered with a 5xx status: its database or store is unreachable, or the API has a defect.

    The sentence ends with the request's id if the answer had one. The API's log has details under that id.
    """

    def __init__(self, sentence: str, status: int, request_id: str | None = None) -> None:
        super().__init__(f"{sentence} (request {request_id})" if request_id else sentence)
        self.status = status
        self.request_id = request_id


class ServiceUnreachable(PhemaError):
    """No API answers at the address."""


class JobFailed(PhemaError):
    """The awaited job failed or was cancelled."""

    def __init__(self, sentence: str, job_id: str, state: str) -> None:
        super().__init__(sentence)
        self.job_id = job_id
        self.state = state


class WaitTimeout(PhemaError):
    """`wait` reached its timeout. The job continues."""

    def __init__(self, sentence: str, job_id: str) -> None:
        super().__init__(sentence)
        self.job_id = job_id


class DownloadError(PhemaError):
    """A download stopped and retries did not help, or its SHA-256 is not the recorded one."""
