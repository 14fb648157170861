"""What every group of resources with a state offers: `get`, `watch` and `wait`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from phema.client.polling import POLL_SECONDS, poll
from phema.client.transport import Transport
from phema.errors import JobFailed


class Identified(Protocol):
    """A response with an id."""

    @property
    def id(self) -> str: ...


class Ending(Identified, Protocol):
    """A response with an id and a state that ends."""

    @property
    def state(self) -> str: ...
    @property
    def error(self) -> str | None: ...
    @property
    def done(self) -> bool: ...


Resource = TypeVar("Resource", bound=Ending)


class Watched(ABC, Generic[Resource]):
    """Base class. A resource is named by its id, or by a response about it."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @abstractmethod
    def get(self, resource: str | Resource, /) -> Resource:
        """The resource as it is now."""

    def watch(
        self,
        resource: str | Resource,
        on_progress: Callable[[Resource], None] | None = None,
        *,
        timeout: float | None = None,
        poll_seconds: float = POLL_SECONDS,
    ) -> Resource:
        """Poll until the resource has ended, and return it in its final state. `on_progress` gets every state.

        Tolerates an outage of the service of up to one minute. Raises WaitTimeout after `timeout` seconds.
        """
        identity = identity_of(resource)
        return poll(lambda: self.get(identity), on_progress, timeout, poll_seconds, identity)

    def wait(
        self,
        resource: str | Resource,
        on_progress: Callable[[Resource], None] | None = None,
        *,
        timeout: float | None = None,
        poll_seconds: float = POLL_SECONDS,
    ) -> Resource:
        """As `watch`, and raises JobFailed unless the resource has succeeded."""
        ended = self.watch(resource, on_progress, timeout=timeout, poll_seconds=poll_seconds)
        if ended.state == "succeeded":
            return ended
        named = getattr(ended, "name", ended.id)
        reason = f": {ended.error}" if ended.error else ""
        raise JobFailed(f"{named} {ended.state}{reason}", job_of(ended), ended.state)


def identity_of(resource: str | Identified) -> str:
    """The id that a request names."""
    return resource if isinstance(resource, str) else resource.id


def filter_of(run: str | Identified | None) -> str | None:
    """The run whose resources a list has; None for all."""
    return None if run is None else identity_of(run)


def job_of(resource: Ending) -> str:
    """Id of the resource's job; its own id if it is a job, or if it has none."""
    job = getattr(resource, "job", None)
    return str(getattr(resource, "job_id", None) or getattr(job, "id", None) or resource.id)
