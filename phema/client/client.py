"""`phema.Client`: everything the API does, from Python. Torch-free."""

from __future__ import annotations

import base64
import builtins
import json
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from phema.client import downloads
from phema.client.reconstruction_requests import Profiles, Tensors, question
from phema.client.response_models import Evaluation, Job, Metrics, Plan, Reconstruction, Run, Snapshot
from phema.client.service_discovery import find_url
from phema.client.storage import Keeping
from phema.client.transport import Transport, route
from phema.errors import InvalidArgument, JobFailed, ServiceError, ServiceUnreachable, WaitTimeout

POLL_SECONDS = 0.5
OUTAGE_SECONDS = 60.0
"""How long waiting bears a service that is away: longer than its restart."""

Awaited = TypeVar("Awaited", Run, Job)

Guide = Reconstruction | str | tuple[str, int | None, float]
"""Weights that guide: a finished reconstruction, its id, or (run, num_images, sigma_rel)."""


class Client(Keeping):
    """A connection to one phema service.

    `url` defaults to the environment's `PHEMA_URL`, else to the service that `phema up` runs from `PHEMA_STATE_DIR`
    (or `./.phema`), else to http://127.0.0.1:8400. `token` defaults to `PHEMA_API_TOKEN`.

    Every method raises `phema.PhemaError` (tree in `phema.errors`) with the service's own sentence.
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
        self._transport.close()

    def presets(self) -> dict[str, dict[str, Any]]:
        """The recipes this service knows: name -> complete configuration."""
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
        """What `reconstruct` would read and how good the result would be; reads no weights."""
        body = question(sigma_rel, profiles, tensors, num_images, dtype, regularize, tolerance)
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
        """Weights of `run` with averages chosen after training: one reconstruction per profile, in order.

        What is wanted is `sigma_rel`, a number or several, or `profiles`: `phema.Profile`s (or their JSON) of any
        kind. `tensors` maps patterns of tensor names to a sigma_rel or profile of their own, in order of precedence,
        with exactly one profile for all others. `num_images` is a time with a snapshot; None is the latest. `dtype` is
        float32, float16 or bfloat16. `regularize` False is the paper's plain least squares. `tolerance`: a predicted
        relative error that is good enough, for which fewer snapshots are read; None is as good as with all.

        Asking again for what exists costs nothing. With `wait`, returns when all are finished and raises JobFailed
        if they cannot be; without, returns at once and `reconstruction(id)` tells the state. Where the fit is poor,
        `advice` of the answer says so.
        """
        body = question(sigma_rel, profiles, tensors, num_images, dtype, regularize, tolerance)
        answer = self._transport.post(route("runs", run, "reconstructions"), body)
        items = [Reconstruction.model_validate(item) for item in answer["reconstructions"]]
        if not wait:
            return items
        # Some of the outputs may be under way in jobs that others started.
        for job in dict.fromkeys(item.job_id for item in items if not item.done and item.job_id):
            self.wait(job, on_progress=on_progress)
        return [self.reconstruction(item.id) for item in items]

    def reconstruction(self, reconstruction_id: str) -> Reconstruction:
        return Reconstruction.model_validate(self._transport.get(route("reconstructions", reconstruction_id)))

    def reconstructions(self, run: str, limit: int | None = None) -> list[Reconstruction]:
        """Every reconstruction of a run, or the first `limit`."""
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
        """Sample from a reconstruction and score it.

        `recipe` holds fields of the sampling recipe: num_samples, num_steps, guidance, guidance_interval, churn, seed,
        metrics, grid, …; `docs/evaluations.md` lists them. `guide` goes with `guidance`: a finished reconstruction, its
        id, or (run, num_images, sigma_rel), which is reconstructed first; num_images None is that run's latest. It may
        come from any run and time whose pictures and classes fit.

        With `wait`, the answer carries `figures`; a job that fails raises JobFailed.
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
        return Evaluation.model_validate(self._transport.get(route("evaluations", evaluation_id)))

    def evaluations(self, run: str | None = None, limit: int | None = None) -> list[Evaluation]:
        """Evaluations of one run, or of all."""
        return [Evaluation.model_validate(e) for e in self._transport.pages("/v1/evaluations", limit, run=run)]

    def download(
        self, identity: str, path: str | Path | None = None, *, on_progress: downloads.Progress | None = None
    ) -> Path:
        """Fetch the weights of a reconstruction or snapshot, or the pictures of an evaluation, by id.

        `path` is a file or an existing folder; None is the working directory. A broken download resumes where it
        stopped, also in a later process; the file appears only when it is whole and its SHA-256 is the recorded one.
        """
        routes = {
            "rec": route("reconstructions", identity, "download"),
            "snap": route("snapshots", identity, "download"),
            "eval": route("evaluations", identity, "pictures"),
        }
        file = routes.get(identity.partition("-")[0])
        if file is None:
            raise InvalidArgument(f"{identity!r} cannot be downloaded; ids that can start with rec-, snap- or eval-")
        return downloads.fetch(self._transport, file, Path(path or "."), on_progress=on_progress)

    def wait(
        self,
        job: str | Job,
        *,
        on_progress: Callable[[Job], None] | None = None,
        timeout: float | None = None,
        poll_seconds: float = POLL_SECONDS,
    ) -> Job:
        """Poll a job until it ends; `on_progress` sees every state on the way.

        Outlives restarts of the service of up to a minute. Raises JobFailed when the job fails or is cancelled,
        WaitTimeout after `timeout` seconds.
        """
        identity = job if isinstance(job, str) else job.id
        finished = _poll(lambda: self.jobs.get(identity), on_progress, timeout, poll_seconds, identity)
        if finished.state == "succeeded":
            return finished
        reason = finished.error or f"{identity} was {finished.state}"
        raise JobFailed(f"{finished.kind} job {identity} {finished.state}: {reason}", identity, finished.state)


class Runs:
    """`client.runs`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, name: str, preset: str = "digits-tiny", config: Mapping[str, Any] | None = None) -> Run:
        """Start a training run: `preset` with the fields of `config` (nested mappings) replaced."""
        body = {"name": name, "preset": preset, "config": dict(config or {})}
        # A fresh key: a repeat of this very request cannot start a second run.
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        return Run.model_validate(self._transport.post("/v1/runs", body, headers))

    def open(
        self,
        name: str,
        config: Mapping[str, Any] | None = None,
        *,
        origin: str = "external",
        total_images: int | None = None,
    ) -> Run:
        """A run of a training loop of your own, for `phema.SnapshotWriter`: the one of this name and `config`, or new.

        `config` is any description that JSON can hold. `origin` is external or imported. `total_images` None grows with
        the snapshots. Raises Conflict when another run, or this one with another config, has the name, and
        InvalidArgument for what JSON cannot hold.
        """
        try:
            json.dumps(config, allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError, RecursionError, AttributeError) as error:
            raise InvalidArgument(f"config cannot be written as JSON: {error}") from error
        body = {"name": name, "origin": origin, "config": dict(config or {}), "total_images": total_images}
        return Run.model_validate(self._transport.post("/v1/runs/external", body))

    def register_snapshot(
        self,
        run: str,
        *,
        num_images: int,
        profile: Mapping[str, Any],
        dtype: str,
        key: str,
        size: int,
        sha256: str,
        probe: bytes | None = None,
    ) -> Snapshot:
        """Enter a file that lies in the service's store into an open run; `phema.SnapshotWriter` does both."""
        body = {
            "num_images": num_images,
            "profile": dict(profile),
            "dtype": dtype,
            "key": key,
            "size": size,
            "sha256": sha256,
            "probe": None if probe is None else base64.b64encode(probe).decode(),
        }
        return Snapshot.model_validate(self._transport.post(route("runs", run, "snapshots"), body))

    def finish(self, run: str) -> Run:
        """End a run of a training loop of your own; it takes no more snapshots unless it is resumed."""
        return Run.model_validate(self._transport.post(route("runs", run, "finish")))

    def list(self, state: str | None = None, limit: int | None = None) -> list[Run]:
        """All runs, newest first; those in `state`; the first `limit`."""
        return [Run.model_validate(item) for item in self._transport.pages("/v1/runs", limit, state=state)]

    def get(self, run: str) -> Run:
        """A run by id or name."""
        return Run.model_validate(self._transport.get(route("runs", run)))

    def watch(
        self,
        run: str,
        on_progress: Callable[[Run], None] | None = None,
        *,
        timeout: float | None = None,
        poll_seconds: float = POLL_SECONDS,
    ) -> Run:
        """Poll a run until it ends, whatever the end; `on_progress` sees every state on the way."""
        return _poll(lambda: self.get(run), on_progress, timeout, poll_seconds, run)

    def cancel(self, run: str) -> Run:
        return Run.model_validate(self._transport.post(route("runs", run, "cancel")))

    def resume(self, run: str) -> Run:
        """Train a failed or cancelled run on from its latest checkpoint; any other stays as it is.

        A run of a training loop of your own takes snapshots again, however it had ended.
        """
        return Run.model_validate(self._transport.post(route("runs", run, "resume")))

    def snapshots(self, run: str, limit: int | None = None) -> builtins.list[Snapshot]:
        return [Snapshot.model_validate(item) for item in self._transport.pages(route("runs", run, "snapshots"), limit)]

    def metrics(self, run: str, after: int | None = None, limit: int | None = None) -> builtins.list[Metrics]:
        """The run's history (loss, learning rate, throughput, magnitudes), later than `after` images seen."""
        pages = self._transport.pages(route("runs", run, "metrics"), limit, after=after)
        return [Metrics.model_validate(item) for item in pages]


class Jobs:
    """`client.jobs`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(
        self, kind: str | None = None, state: str | None = None, run: str | None = None, limit: int | None = None
    ) -> list[Job]:
        pages = self._transport.pages("/v1/jobs", limit, kind=kind, state=state, run=run)
        return [Job.model_validate(item) for item in pages]

    def get(self, job: str) -> Job:
        return Job.model_validate(self._transport.get(route("jobs", job)))

    def cancel(self, job: str) -> Job:
        """Ask a job to stop: a queued one is cancelled at once, a running one at its next step."""
        return Job.model_validate(self._transport.post(route("jobs", job, "cancel")))


def _poll(
    look: Callable[[], Awaited],
    on_progress: Callable[[Awaited], None] | None,
    timeout: float | None,
    poll_seconds: float,
    name: str,
) -> Awaited:
    start = last_seen = time.monotonic()
    seen = False
    while True:
        now = time.monotonic()
        try:
            found = look()
        except (ServiceUnreachable, ServiceError):
            # The work goes on without the API; only a service that was never there is an error at once.
            if not seen or now - last_seen > OUTAGE_SECONDS:
                raise
        else:
            seen, last_seen = True, now
            if on_progress is not None:
                on_progress(found)
            if found.done:
                return found
        if timeout is not None and now - start > timeout:
            raise WaitTimeout(f"{name} is not finished after {timeout:g} s; it goes on", name)
        time.sleep(poll_seconds)
