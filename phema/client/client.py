"""`phema.Client`: every operation of the API, from Python. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from phema.client import downloads
from phema.client.jobs import Jobs
from phema.client.polling import POLL_SECONDS, poll
from phema.client.response_models import (
    Basis,
    BasisPlan,
    Evaluation,
    Job,
    Plan,
    Reconstruction,
    Retention,
    Snapshot,
)
from phema.client.runs import Runs
from phema.client.service_discovery import find_url
from phema.client.transport import Transport, route
from phema.errors import InvalidArgument, JobFailed

if TYPE_CHECKING:
    # The methods that use profiles import them: most commands do not, and start faster without.
    from phema.client.reconstruction_requests import Profiles, Tensors

Guide = Reconstruction | str | tuple[str, int | None, float]
"""Weights of the guide: a finished reconstruction, its id, or (run, num_images, sigma_rel)."""


class Client:
    """A connection to one phema service.

    `url` is the address of the API. The default is the environment variable `PHEMA_URL`, then the service that
    `phema up` runs from `PHEMA_STATE_DIR` (or `./.phema`); without either, ServiceUnreachable is raised. `token`
    defaults to `PHEMA_API_TOKEN`. `run` is a name or an id in every method.

    Every method raises subclasses of `phema.PhemaError` (tree in `phema.errors`) with the service's own sentence.
    """

    def __init__(self, url: str | None = None, token: str | None = None) -> None:
        self._transport = Transport(url or find_url(), token or os.environ.get("PHEMA_API_TOKEN"))
        self.url = self._transport.url
        self.runs = Runs(self._transport)
        self.jobs = Jobs(self._transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def presets(self) -> dict[str, dict[str, Any]]:
        """The presets of this service: name to complete configuration."""
        return {item["name"]: item["config"] for item in self._transport.get("/v1/presets")["items"]}

    def plan(
        self,
        run: str,
        sigma_rel: float | Sequence[float] | None = None,
        num_images: int | None = None,
        *,
        profiles: Profiles | None = None,
        tensors: Tensors | None = None,
        dtype: str = "float32",
        regularize: bool = True,
        tolerance: float | None = None,
    ) -> Plan:
        """What `reconstruct` would read, and the predicted errors. Arguments as `reconstruct`. Reads no weights."""
        from phema.client.reconstruction_requests import request_body  # see the top of the file

        body = request_body(sigma_rel, profiles, tensors, num_images, dtype, regularize, tolerance)
        answer = self._transport.post(route("runs", run, "reconstructions"), body | {"plan_only": True})
        return Plan.model_validate(answer)

    def reconstruct(
        self,
        run: str,
        sigma_rel: float | Sequence[float] | None = None,
        num_images: int | None = None,
        *,
        profiles: Profiles | None = None,
        tensors: Tensors | None = None,
        dtype: str = "float32",
        regularize: bool = True,
        tolerance: float | None = None,
        wait: bool = True,
        on_progress: Callable[[Job], None] | None = None,
    ) -> list[Reconstruction]:
        """Reconstruct weights of `run` with averages chosen after training: one result per profile, in order.

        Give either `sigma_rel`, one or more numbers, or `profiles`, one or more `phema.Profile`s (or their JSON).
        `tensors` maps patterns of tensor names to a sigma_rel or profile, in order of precedence; there must be exactly
        one profile for the other tensors then. `num_images` is a training time with a snapshot; None is the latest.
        `dtype` is float32, float16 or bfloat16. `regularize=False` is the paper's plain least squares. `tolerance` is
        a predicted relative error that is sufficient: fewer snapshots are read. With None, the prediction is as good
        as with all snapshots.

        An existing reconstruction is not computed again. With `wait`, returns when all are finished, and raises
        JobFailed if one fails. Without `wait`, returns at once; `reconstruction(id)` then returns the state. `advice`
        of a result says why a fit is poor.
        """
        from phema.client.reconstruction_requests import request_body  # see the top of the file

        body = request_body(sigma_rel, profiles, tensors, num_images, dtype, regularize, tolerance)
        answer = self._transport.post(route("runs", run, "reconstructions"), body)
        items = [Reconstruction.model_validate(item) for item in answer["reconstructions"]]
        if not wait:
            return items
        # Jobs of earlier requests may be computing some of the outputs.
        for job in dict.fromkeys(item.job_id for item in items if not item.done and item.job_id):
            self.wait(job, on_progress=on_progress)
        return [self.reconstruction(item.id) for item in items]

    def reconstruction(self, reconstruction_id: str) -> Reconstruction:
        """The reconstruction with this id."""
        return Reconstruction.model_validate(self._transport.get(route("reconstructions", reconstruction_id)))

    def reconstructions(self, run: str, limit: int | None = None) -> list[Reconstruction]:
        """The reconstructions of a run, at most `limit`."""
        pages = self._transport.pages(route("runs", run, "reconstructions"), limit)
        return [Reconstruction.model_validate(item) for item in pages]

    def evaluate(
        self,
        reconstruction: str | Reconstruction,
        *,
        guide: Guide | None = None,
        wait: bool = True,
        on_progress: Callable[[Job], None] | None = None,
        **recipe: Any,
    ) -> Evaluation:
        """Sample pictures from a reconstruction and compute its metrics.

        `recipe` holds fields of the sampling recipe: num_samples, num_steps, guidance, guidance_interval, churn, seed,
        metrics, grid, …; `docs/evaluations.md` lists them. `guide` needs `guidance`. It is a finished reconstruction,
        its id, or (run, num_images, sigma_rel), which is reconstructed first; num_images None is the latest. The guide
        may come from any run and time with the same picture shape and classes.

        With `wait`, the result has `figures`, and JobFailed is raised if the job fails.
        """
        identity = reconstruction if isinstance(reconstruction, str) else reconstruction.id
        if guide is not None:
            recipe |= self._guidance(guide, recipe, on_progress)
        answer = self._transport.post("/v1/evaluations", {"reconstruction_id": identity, **recipe})
        evaluation = Evaluation.model_validate(answer)
        if not wait:
            return evaluation
        if not evaluation.done and evaluation.job_id:
            self.wait(evaluation.job_id, on_progress=on_progress)
        return self.evaluation(evaluation.id)

    def _guidance(
        self, guide: Guide, recipe: Mapping[str, Any], on_progress: Callable[[Job], None] | None
    ) -> dict[str, str]:
        if "guide_id" in recipe:
            raise InvalidArgument("guide and guide_id both name the guide; give one of them")
        if recipe.get("guidance", 1) == 1:
            raise InvalidArgument("guide does nothing without guidance; give a weight such as guidance=2.0")
        if isinstance(guide, str):
            return {"guide_id": guide}
        if not isinstance(guide, Reconstruction):
            run, num_images, sigma_rel = guide
            [guide] = self.reconstruct(run, sigma_rel, num_images, on_progress=on_progress)
        return {"guide_id": guide.id}

    def evaluation(self, evaluation_id: str) -> Evaluation:
        """The evaluation with this id."""
        return Evaluation.model_validate(self._transport.get(route("evaluations", evaluation_id)))

    def evaluations(self, run: str | None = None, limit: int | None = None) -> list[Evaluation]:
        """The evaluations of one run, or of all runs; at most `limit`."""
        return [Evaluation.model_validate(e) for e in self._transport.pages("/v1/evaluations", limit, run=run)]

    def plan_basis(
        self,
        run: str,
        num_images: int | None = None,
        *,
        sigma_rel_min: float = 0.02,
        sigma_rel_max: float = 0.25,
        tolerance: float = 1e-4,
    ) -> BasisPlan:
        """What `compact` would read and store. Reads no weights."""
        body = _basis_request(num_images, sigma_rel_min, sigma_rel_max, tolerance) | {"plan_only": True}
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
        """Compute a basis of a run at `num_images` (None is the latest time).

        Any EMA length between `sigma_rel_min` and `sigma_rel_max` is then reconstructed from the few vectors of the
        basis instead of the snapshots. The basis adds at most `tolerance` to the relative error of the weights. If a
        finished basis covers the request, it is returned at once.
        """
        body = _basis_request(num_images, sigma_rel_min, sigma_rel_max, tolerance)
        basis = Basis.model_validate(self._transport.post(route("runs", run, "bases"), body)["basis"])
        if not wait:
            return basis
        if not basis.done and basis.job_id:
            self.wait(basis.job_id, on_progress=on_progress)
        return self.basis(basis.id)

    def basis(self, basis_id: str) -> Basis:
        """The basis with this id."""
        return Basis.model_validate(self._transport.get(route("bases", basis_id)))

    def bases(self, run: str, limit: int | None = None) -> list[Basis]:
        """The bases of a run, newest first, at most `limit`."""
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
        answer = Retention.model_validate(self._transport.post(route("runs", run, "retention"), body))
        if answer.job is None or not wait:
            return answer
        return answer.model_copy(update={"job": self.wait(answer.job, on_progress=on_progress)})

    def pin(
        self, run: str, num_images: int | None = None, *, snapshot_ids: Sequence[str] | None = None
    ) -> list[Snapshot]:
        """Pin snapshots of a run, all at `num_images` or those of `snapshot_ids`: no policy deletes them."""
        return self._pin(run, num_images, snapshot_ids, pinned=True)

    def unpin(
        self, run: str, num_images: int | None = None, *, snapshot_ids: Sequence[str] | None = None
    ) -> list[Snapshot]:
        """Remove pins. Arguments as `pin`."""
        return self._pin(run, num_images, snapshot_ids, pinned=False)

    def _pin(self, run: str, num_images: int | None, ids: Sequence[str] | None, *, pinned: bool) -> list[Snapshot]:
        if (num_images is None) == (ids is None):
            raise InvalidArgument("give either num_images or snapshot_ids")
        named = {"num_images": num_images} if ids is None else {"snapshot_ids": list(ids)}
        answer = self._transport.post(route("runs", run, "pins"), {**named, "pinned": pinned})
        return [Snapshot.model_validate(item) for item in answer["snapshots"]]

    def download(
        self, identity: str, path: str | Path | None = None, *, on_progress: downloads.Progress | None = None
    ) -> Path:
        """Download the weights of a reconstruction or snapshot, or the pictures of an evaluation, by id.

        `path` is a file or an existing folder; None is the working directory. A download that stopped resumes, also
        in a later process. The file appears only when it is complete and its SHA-256 is the recorded one.
        """
        routes = {
            "rec": route("reconstructions", identity, "download"),
            "snap": route("snapshots", identity, "download"),
            "eval": route("evaluations", identity, "pictures"),
        }
        file = routes.get(identity.partition("-")[0])
        if file is None:
            raise InvalidArgument(f"{identity!r} cannot be downloaded; ids that can start with rec-, snap- or eval-")
        return downloads.fetch(
            self._transport,
            file,
            Path(path or "."),
            hash_required=not file.endswith("/pictures"),
            on_progress=on_progress,
        )

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
        finished = poll(lambda: self.jobs.get(identity), on_progress, timeout, poll_seconds, identity)
        if finished.state == "succeeded":
            return finished
        reason = finished.error or f"{identity} was {finished.state}"
        raise JobFailed(f"{finished.kind} job {identity} {finished.state}: {reason}", identity, finished.state)


def _basis_request(
    num_images: int | None, sigma_rel_min: float, sigma_rel_max: float, tolerance: float
) -> dict[str, Any]:
    body = {"sigma_rel_min": sigma_rel_min, "sigma_rel_max": sigma_rel_max, "tolerance": tolerance}
    return body if num_images is None else body | {"num_images": num_images}


def _as_list(times: Sequence[int] | None) -> list[int] | None:
    return None if times is None else list(times)
