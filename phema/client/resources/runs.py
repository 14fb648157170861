"""`client.runs`: training runs and their snapshots."""

from __future__ import annotations

import base64
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phema.client.log_streams import LogStream
from phema.client.resources.watched import Watched, identity_of
from phema.client.response_models import Metrics, Run, RunDeletion, RunEvent, RunPlan, Snapshot
from phema.client.rows import Rows
from phema.client.run_configurations import DEFAULT_PRESET, own_preset
from phema.client.study_models import ProgressCurve
from phema.client.transport import listed, route
from phema.errors import InvalidArgument

if TYPE_CHECKING:
    from phema.client.average_models import Reconstruction
    from phema.shared.recipes.run_config import RunConfig


class Runs(Watched[Run]):
    """Requests about training runs. `run` is a name or an id, or a response about the run."""

    def create(
        self,
        name: str,
        preset: str | None = None,
        config: Mapping[str, Any] | RunConfig | None = None,
        *,
        dataset: str | os.PathLike[str] | None = None,
        held_out: float | None = None,
    ) -> Run:
        """Start a training run: the configuration of `preset`, with the fields of `config` (nested) replaced.

        `config` is a mapping, such as `phema.read_run_file` returns, or a `phema.RunConfig`. If it names its own
        preset, `preset` may be left out.

        `dataset` ("digits", a folder, a zip file or an s3:// URL) is read by the service: resolution, channels, labels
        and the share `held_out` of the pictures come from it. Without a preset, network and training are proposed for
        `dataset`; without either, the preset is digits-tiny.
        """
        body = {"name": name, **_wanted(preset, config, dataset, held_out)}
        # If this request is sent twice, the key prevents a second run.
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        return Run.read(self._transport.post("/v1/runs", body, headers))

    def plan(
        self,
        name: str | None = None,
        preset: str | None = None,
        config: Mapping[str, Any] | RunConfig | None = None,
        *,
        dataset: str | os.PathLike[str] | None = None,
        held_out: float | None = None,
    ) -> RunPlan:
        """The complete configuration of a run and its cost, without creating it. Arguments as for `create`."""
        body = {"name": name, **_wanted(preset, config, dataset, held_out)}
        return RunPlan.read(self._transport.post("/v1/run-plans", body))

    def open(
        self,
        name: str,
        config: Mapping[str, Any] | None = None,
        *,
        origin: str = "external",
        total_images: int | None = None,
    ) -> Run:
        """Open the run of your own training loop, for `phema.SnapshotWriter`. Creates the run if it does not exist.

        `config` is any description of the training that JSON can hold. `origin` is external or imported.
        `total_images` is the planned length; with None the length grows with the snapshots.

        Raises Conflict if the name belongs to another run or to a run with another `config`, and InvalidArgument if
        JSON cannot hold `config`.
        """
        try:
            json.dumps(config, allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError, RecursionError, AttributeError) as error:
            raise InvalidArgument(f"config cannot be written as JSON: {error}") from error
        body = {"name": name, "origin": origin, "config": dict(config or {}), "total_images": total_images}
        return Run.read(self._transport.post("/v1/runs/external", body))

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
        """Register a snapshot file, which is in the service's store already, in an open run.

        `phema.SnapshotWriter` uploads and registers.
        """
        body = {
            "num_images": num_images,
            "profile": dict(profile),
            "dtype": dtype,
            "key": key,
            "size": size,
            "sha256": sha256,
            "probe": None if probe is None else base64.b64encode(probe).decode(),
        }
        return Snapshot.read(self._transport.post(route("runs", run, "snapshots"), body))

    def heartbeat(self, run: str | Run) -> Run:
        """Tell the service that your own training loop is alive. Storing a snapshot tells it, too."""
        return Run.read(self._transport.post(route("runs", identity_of(run), "heartbeat")))

    def finish(self, run: str | Run) -> Run:
        """End the run of your own training loop. It accepts no more snapshots unless it is resumed."""
        return Run.read(self._transport.post(route("runs", identity_of(run), "finish")))

    def list(
        self,
        state: str | None = None,
        limit: int | None = None,
        *,
        name: str | None = None,
        origin: str | None = None,
        preset: str | None = None,
        sort: str | None = None,
        order: str | None = None,
    ) -> Rows[Run]:
        """Runs, newest first: all, or those in `state`; at most `limit`.

        Args:
            name: a part of the name, in letters of any case.
            origin: `trained`, `external` or `imported`.
            sort: `created`, `name`, `progress` or `images`.
            order: `asc` or `desc`; by default names ascend, and everything else descends.
        """
        wanted = {"state": state, "name": name, "origin": origin, "preset": preset, "sort": sort, "order": order}
        return Rows(Run.read(item) for item in self._transport.pages("/v1/runs", limit, **wanted))

    def get(self, run: str | Run, /) -> Run:
        """The run with this name or id."""
        return Run.read(self._transport.get(route("runs", identity_of(run))))

    def cancel(self, run: str | Run) -> Run:
        """Cancel a run. Training stops after its current step and a checkpoint; a paused run is cancelled at once."""
        return Run.read(self._transport.post(route("runs", identity_of(run), "cancel")))

    def pause(self, run: str | Run) -> Run:
        """Pause a run. Training stops after its current step and a checkpoint, and its CPUs and GPUs are free.

        A queued run is paused at once. Raises Conflict for a run that has ended or that phema does not train.
        """
        return Run.read(self._transport.post(route("runs", identity_of(run), "pause")))

    def extend(self, run: str | Run, total_images: int) -> Run:
        """Give a run the new, longer length `total_images`, a multiple of its batch size.

        A succeeded run is queued again and goes on from the checkpoint at its end. A queued, paused, failed or
        cancelled one only gets the new length. Raises Conflict for a running run: pause it first.
        """
        body = {"total_images": total_images}
        # If this request is sent twice, the second one must not find the run extended already and refuse.
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        return Run.read(self._transport.post(route("runs", identity_of(run), "extend"), body, headers))

    def events(self, run: str | Run, limit: int | None = None) -> Rows[RunEvent]:
        """What happened to a run, when and why, oldest first; at most `limit` events."""
        pages = self._transport.pages(route("runs", identity_of(run), "event-log"), limit)
        return Rows(RunEvent.read(item) for item in pages)

    def resume(self, run: str | Run) -> Run:
        """Continue a paused, failed or cancelled run from its latest checkpoint. Other runs do not change.

        A run of your own training loop accepts snapshots again, even if it had succeeded.
        """
        return Run.read(self._transport.post(route("runs", identity_of(run), "resume")))

    def rename(self, run: str | Run, name: str) -> Run:
        """Give a run another name, also while it trains. Its id stays, and the old name is free."""
        return Run.read(self._transport.post(route("runs", identity_of(run), "rename"), {"name": name}))

    def fork(
        self,
        run: str | Run,
        name: str,
        config: Mapping[str, Any] | None = None,
        *,
        num_images: int | None = None,
        reconstruction: str | Reconstruction | None = None,
    ) -> Run:
        """Start the run `name` from what another has learned, with the fields of `config` (nested) replaced.

        By default the new run continues the latest checkpoint, with `num_images` the one at that time: clock,
        optimizer, averages and data go on. With `reconstruction`, it begins at 0 images with these weights, a new
        optimizer and new averages.
        """
        given = {"num_images": num_images, "reconstruction_id": reconstruction and identity_of(reconstruction)}
        body = {"name": name, "config": dict(config or {}), **{key: value for key, value in given.items() if value}}
        # If this request is sent twice, the key prevents a second run.
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        return Run.read(self._transport.post(route("runs", identity_of(run), "forks"), body, headers))

    def forks(self, run: str | Run) -> Rows[Run]:
        """The runs that began from this one, oldest first."""
        found = self._transport.get(route("runs", identity_of(run), "forks"))
        return Rows(Run.read(item) for item in listed(found, "items"))

    def delete(
        self, run: str | Run, *, dry_run: bool = False, grace_hours: float | None = None, models: bool = False
    ) -> RunDeletion:
        """Delete a run with everything that was made of it, after a time in which `restore` withdraws the deletion.

        Args:
            dry_run: return what would be deleted and what stands against it; change nothing.
            grace_hours: hours until the run is deleted, 0 for now; None is the service's setting.
            models: also delete the models that were promoted from the run.

        Raises Conflict for a run that is running, or that something else needs.
        """
        # As text: queries have no booleans.
        flags = {"dry_run": str(dry_run).lower(), "models": str(models).lower()}
        path = route("runs", identity_of(run))
        return RunDeletion.read(self._transport.delete(path, grace_hours=grace_hours, **flags))

    def restore(self, run: str | Run) -> Run:
        """Withdraw the deletion of a run. Cancelled jobs stay cancelled: `resume` trains on.

        Raises Conflict when the deletion has begun.
        """
        return Run.read(self._transport.post(route("runs", identity_of(run), "restore")))

    def snapshots(self, run: str | Run, limit: int | None = None) -> Rows[Snapshot]:
        """The stored snapshots of a run, at most `limit`."""
        pages = self._transport.pages(route("runs", identity_of(run), "snapshots"), limit)
        return Rows(Snapshot.read(item) for item in pages)

    def metrics(self, run: str | Run, after: int | None = None, limit: int | None = None) -> Rows[Metrics]:
        """The run's history (loss, learning rate, throughput, magnitudes) after `after` images seen."""
        pages = self._transport.pages(route("runs", identity_of(run), "metrics"), limit, after=after)
        return Rows(Metrics.read(item) for item in pages)

    def progress_curve(self, run: str | Run) -> ProgressCurve:
        """The best figure and its EMA length over training time, for a run with a continuous evaluation."""
        return ProgressCurve.read(self._transport.get(route("runs", identity_of(run), "progress-curve")))

    def logs(self, run: str | Run, attempt: int | None = None, *, follow: bool = False) -> LogStream:
        """The log of an attempt at the run's latest job, as `client.jobs.logs`."""
        job = self.get(run).job
        assert job is not None, "the service shows the job of every run"
        return LogStream(self._transport, route("jobs", job.id, "logs"), attempt, follow)


def _wanted(
    preset: str | None,
    config: Mapping[str, Any] | RunConfig | None,
    dataset: str | os.PathLike[str] | None,
    held_out: float | None,
) -> dict[str, Any]:
    """The part of a request that says which run is wanted."""
    own, fields = own_preset(preset, config)
    if dataset is not None:
        dataset = os.fspath(dataset)
        if dataset != "digits" and "://" not in dataset:
            dataset = str(Path(dataset).expanduser().absolute())
    elif own is None:
        own = DEFAULT_PRESET
    body: dict[str, Any] = {"config": fields}
    given = {"preset": own, "dataset": dataset, "held_out": held_out}
    return body | {name: value for name, value in given.items() if value is not None}
