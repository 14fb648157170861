"""Storage of a run: bases, retention and pins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from phema.client.average_models import Basis, BasisPlan, Retention
from phema.client.operations.operations import Operations
from phema.client.resources.watched import identity_of
from phema.client.response_models import Job, Run, Snapshot
from phema.client.rows import Rows
from phema.client.transport import listed, route
from phema.errors import InvalidArgument

if TYPE_CHECKING:
    # The methods that use profiles import them: most commands do not, and start faster without.
    from phema.client.reconstruction_requests import Profiles


class Storing(Operations):
    """Storage of a run's snapshots."""

    def plan_basis(
        self,
        run: str | Run,
        num_images: int | None = None,
        *,
        sigma_rel_min: float = 0.02,
        sigma_rel_max: float = 0.25,
        tolerance: float = 1e-4,
        profiles: Profiles = (),
    ) -> BasisPlan:
        """What `compact` would read and store. Reads no weights."""
        body = _basis_request(num_images, sigma_rel_min, sigma_rel_max, tolerance, profiles) | {"plan_only": True}
        return BasisPlan.read(self._transport.post(route("runs", identity_of(run), "bases"), body))

    def compact(
        self,
        run: str | Run,
        num_images: int | None = None,
        *,
        sigma_rel_min: float = 0.02,
        sigma_rel_max: float = 0.25,
        tolerance: float = 1e-4,
        profiles: Profiles = (),
        wait: bool = True,
        on_progress: Callable[[Job], None] | None = None,
    ) -> Basis:
        """Compute a basis of a run at `num_images` (None is the latest time).

        Any EMA length between `sigma_rel_min` and `sigma_rel_max` is then reconstructed from the few vectors of the
        basis instead of the snapshots, and so is any of `profiles`. The basis adds at most `tolerance` to the relative
        error of the weights. If a finished basis covers the request, it is returned at once.
        """
        body = _basis_request(num_images, sigma_rel_min, sigma_rel_max, tolerance, profiles)
        answer = self._transport.post(route("runs", identity_of(run), "bases"), body)
        basis = Basis.read(answer.get("basis") if isinstance(answer, dict) else answer)
        if not wait:
            return basis
        if not basis.done and basis.job_id:
            self.wait(basis.job_id, on_progress=on_progress)
        return self.bases.get(basis.id)

    def basis(self, basis_id: str) -> Basis:
        """The basis with this id: the same as `client.bases.get`."""
        return self.bases.get(basis_id)

    def retain(
        self,
        run: str | Run,
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
        """Apply a retention policy to a run's snapshots. With `dry_run`, only return what the policy would do.

        `policy` is one of

        - `all`: keeps every snapshot;
        - `thin`: keeps fewer of the older ones; in the older half of the run one of `coarsest` times stays;
        - `basis`: deletes the snapshots that a basis replaces; `times` are those of the bases to use;
        - `latest`: keeps the latest `keep` times; raises Conflict unless `force`.

        `at` are the training times of the forecast. Pinned snapshots always stay. With `wait`, returns when the
        snapshots are deleted.
        """
        parameters = {"coarsest": coarsest, "keep": keep, "times": _as_list(times), "at": _as_list(at)}
        body: dict[str, Any] = {"policy": policy, "force": force, "dry_run": dry_run}
        body |= {name: value for name, value in parameters.items() if value is not None}
        answer = Retention.read(self._transport.post(route("runs", identity_of(run), "retention"), body))
        if answer.job is None or not wait:
            return answer
        return answer.model_copy(update={"job": self.wait(answer.job, on_progress=on_progress)})

    def pin(
        self, run: str | Run, num_images: int | None = None, *, snapshot_ids: Sequence[str] | None = None
    ) -> Rows[Snapshot]:
        """Pin snapshots of a run, all at `num_images` or those of `snapshot_ids`: no policy deletes them."""
        return self._pin(run, num_images, snapshot_ids, pinned=True)

    def unpin(
        self, run: str | Run, num_images: int | None = None, *, snapshot_ids: Sequence[str] | None = None
    ) -> Rows[Snapshot]:
        """Remove pins. Arguments as `pin`."""
        return self._pin(run, num_images, snapshot_ids, pinned=False)

    def _pin(
        self, run: str | Run, num_images: int | None, ids: Sequence[str] | None, *, pinned: bool
    ) -> Rows[Snapshot]:
        if (num_images is None) == (ids is None):
            raise InvalidArgument("give either num_images or snapshot_ids")
        named = {"num_images": num_images} if ids is None else {"snapshot_ids": list(ids)}
        answer = self._transport.post(route("runs", identity_of(run), "pins"), {**named, "pinned": pinned})
        return Rows(Snapshot.read(item) for item in listed(answer, "snapshots"))


def _basis_request(
    num_images: int | None, sigma_rel_min: float, sigma_rel_max: float, tolerance: float, profiles: Profiles
) -> dict[str, Any]:
    from phema.client.reconstruction_requests import profile_bodies  # see the top of the file

    body: dict[str, Any] = {"sigma_rel_min": sigma_rel_min, "sigma_rel_max": sigma_rel_max, "tolerance": tolerance}
    if given := profile_bodies(profiles):
        body["profiles"] = given
    return body if num_images is None else body | {"num_images": num_images}


def _as_list(times: Sequence[int] | None) -> list[int] | None:
    return None if times is None else list(times)
