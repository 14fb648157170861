"""What `phema.Client` says of a run's storage: bases, pins, retention. Torch-free."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from phema.client.response_models import TERMINAL, Job, Record, Snapshot
from phema.client.transport import Transport, route
from phema.errors import InvalidArgument


class BasisPlan(Record):
    """What making a basis would read and store."""

    num_images: int
    sigma_rel_min: float
    sigma_rel_max: float
    tolerance: float
    vectors: int
    bytes_to_read: int
    bytes_to_store: int
    error_added: float
    """Largest relative error that the basis adds to a reconstruction of its range."""
    basis_id: str | None = None
    """A finished basis that covers what is asked for; nothing is left to read or store."""


class Basis(Record):
    """A few vectors that stand for all snapshots of a run up to a time."""

    id: str
    run_id: str
    state: str
    num_images: int
    sigma_rel_min: float
    sigma_rel_max: float
    tolerance: float
    vectors: int
    error_added: float
    size: int | None = None
    job_id: str | None = None
    error: str | None = None
    created_at: datetime | None = None

    @property
    def done(self) -> bool:
        return self.state in TERMINAL


class Amount(Record):
    snapshots: int
    bytes: int


class ForecastLine(Record):
    sigma_rel: float
    before: float | None
    after: float | None
    """Predicted relative error of the weights; None when nothing can be reconstructed any more."""


class Forecast(Record):
    """Errors of reconstructions at one time."""

    num_images: int
    errors: list[ForecastLine]


class Retention(Record):
    """What a policy frees and what it does to reconstructions; `job` deletes, None for a dry run."""

    policy: str
    dry_run: bool
    frees: Amount
    keeps: Amount
    pinned: int
    """Snapshots that the policy would drop and a pin keeps."""
    in_use: int
    """Snapshots that stay this time: jobs read them, or training may write them again."""
    times_lost: int
    forecasts: list[Forecast]
    refused: str | None = None
    job: Job | None = None


class Keeping(ABC):
    """The part of a client that compacts runs and gives snapshots up."""

    _transport: Transport

    @abstractmethod
    def wait(self, job: str | Job, *, on_progress: Callable[[Job], None] | None = None) -> Job:
        """Until a job has succeeded."""

    def plan_basis(
        self,
        run: str,
        num_images: int | None = None,
        *,
        sigma_rel_min: float = 0.02,
        sigma_rel_max: float = 0.25,
        tolerance: float = 1e-4,
    ) -> BasisPlan:
        """What `compact` would read and store; reads no weights."""
        body = _wanted(num_images, sigma_rel_min, sigma_rel_max, tolerance) | {"plan_only": True}
        return BasisPlan.model_validate(self._transport.post(route("runs", run, "bases"), body))

    def compact(
        self,
        run: str,
        num_images: int | None = None,
        *,
        sigma_rel_min: float = 0.02,
        sigma_rel_max: float = 0.25,
        tolerance: float = 1e-4,
        wait: bool = True,
        on_progress: Callable[[Job], None] | None = None,
    ) -> Basis:
        """Make a basis of a run at `num_images` (None: the latest time): from then on any EMA length of the range costs
        one pass over its few vectors. It adds at most `tolerance` to the relative error of the weights.

        A finished basis that covers what is asked for is the answer at once.
        """
        body = _wanted(num_images, sigma_rel_min, sigma_rel_max, tolerance)
        basis = Basis.model_validate(self._transport.post(route("runs", run, "bases"), body)["basis"])
        if not wait:
            return basis
        if not basis.done and basis.job_id:
            self.wait(basis.job_id, on_progress=on_progress)
        return self.basis(basis.id)

    def basis(self, basis_id: str) -> Basis:
        return Basis.model_validate(self._transport.get(route("bases", basis_id)))

    def bases(self, run: str, limit: int | None = None) -> list[Basis]:
        """Every basis of a run, newest first, or the first `limit`."""
        return [Basis.model_validate(item) for item in self._transport.pages(route("runs", run, "bases"), limit)]

    def retain(
        self,
        run: str,
        policy: str,
        dry_run: bool = True,
        *,
        coarsest: int | None = None,
        times: Sequence[int] | None = None,
        keep: int | None = None,
        at: Sequence[int] | None = None,
        force: bool = False,
        wait: bool = True,
        on_progress: Callable[[Job], None] | None = None,
    ) -> Retention:
        """Apply a policy to a run's snapshots, or, as long as `dry_run` is true, only say what it would do.

        `policy` is `all`, `thin` (`coarsest`: one of so many times stays in the older half), `basis` (`times`: of the
        bases to rely on) or `latest` (`keep`: how many times stay; raises Conflict unless `force`). `at` are the times
        of the forecast. Pinned snapshots always stay. With `wait`, returns when the snapshots are deleted.
        """
        parameters = {"coarsest": coarsest, "keep": keep, "times": _listed(times), "at": _listed(at)}
        body: dict[str, Any] = {"policy": policy, "force": force, "dry_run": dry_run}
        body |= {name: value for name, value in parameters.items() if value is not None}
        answer = Retention.model_validate(self._transport.post(route("runs", run, "retention"), body))
        if answer.job is None or not wait:
            return answer
        return answer.model_copy(update={"job": self.wait(answer.job, on_progress=on_progress)})

    def pin(
        self, run: str, num_images: int | None = None, *, snapshot_ids: Sequence[str] | None = None
    ) -> list[Snapshot]:
        """Keep snapshots of a run whatever policy is applied: all of a time, or those of `snapshot_ids`."""
        return self._pin(run, num_images, snapshot_ids, pinned=True)

    def unpin(
        self, run: str, num_images: int | None = None, *, snapshot_ids: Sequence[str] | None = None
    ) -> list[Snapshot]:
        """Take pins away again."""
        return self._pin(run, num_images, snapshot_ids, pinned=False)

    def _pin(self, run: str, num_images: int | None, ids: Sequence[str] | None, *, pinned: bool) -> list[Snapshot]:
        if (num_images is None) == (ids is None):
            raise InvalidArgument("give either num_images or snapshot_ids")
        named = {"num_images": num_images} if ids is None else {"snapshot_ids": list(ids)}
        answer = self._transport.post(route("runs", run, "pins"), {**named, "pinned": pinned})
        return [Snapshot.model_validate(item) for item in answer["snapshots"]]


def _wanted(num_images: int | None, sigma_rel_min: float, sigma_rel_max: float, tolerance: float) -> dict[str, Any]:
    body = {"sigma_rel_min": sigma_rel_min, "sigma_rel_max": sigma_rel_max, "tolerance": tolerance}
    return body if num_images is None else body | {"num_images": num_images}


def _listed(times: Sequence[int] | None) -> list[int] | None:
    return None if times is None else list(times)
