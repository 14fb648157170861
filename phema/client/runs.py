"""`client.runs`: training runs and their snapshots."""

from __future__ import annotations

import base64
import builtins
import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from phema.client.polling import POLL_SECONDS, poll
from phema.client.response_models import Metrics, Run, Snapshot
from phema.client.transport import Transport, route
from phema.errors import InvalidArgument


class Runs:
    """Requests about training runs. `run` is a name or an id."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, name: str, preset: str = "digits-tiny", config: Mapping[str, Any] | None = None) -> Run:
        """Start a training run: the configuration of `preset`, with the fields of `config` (nested) replaced."""
        body = {"name": name, "preset": preset, "config": dict(config or {})}
        # If this request is sent twice, the key prevents a second run.
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
        return Snapshot.model_validate(self._transport.post(route("runs", run, "snapshots"), body))

    def finish(self, run: str) -> Run:
        """End the run of your own training loop. It accepts no more snapshots unless it is resumed."""
        return Run.model_validate(self._transport.post(route("runs", run, "finish")))

    def list(self, state: str | None = None, limit: int | None = None) -> list[Run]:
        """Runs, newest first: all, or those in `state`; at most `limit`."""
        return [Run.model_validate(item) for item in self._transport.pages("/v1/runs", limit, state=state)]

    def get(self, run: str) -> Run:
        """The run with this name or id."""
        return Run.model_validate(self._transport.get(route("runs", run)))

    def watch(
        self,
        run: str,
        on_progress: Callable[[Run], None] | None = None,
        *,
        timeout: float | None = None,
        poll_seconds: float = POLL_SECONDS,
    ) -> Run:
        """Poll a run until it ends, and return it in its final state. `on_progress` gets every state.

        Raises WaitTimeout after `timeout` seconds.
        """
        return poll(lambda: self.get(run), on_progress, timeout, poll_seconds, run)

    def cancel(self, run: str) -> Run:
        """Cancel a run. Training stops after its current step and a checkpoint."""
        return Run.model_validate(self._transport.post(route("runs", run, "cancel")))

    def resume(self, run: str) -> Run:
        """Continue a failed or cancelled run from its latest checkpoint. Other runs do not change.

        A run of your own training loop accepts snapshots again, even if it had succeeded.
        """
        return Run.model_validate(self._transport.post(route("runs", run, "resume")))

    def snapshots(self, run: str, limit: int | None = None) -> builtins.list[Snapshot]:
        """The stored snapshots of a run, at most `limit`."""
        return [Snapshot.model_validate(item) for item in self._transport.pages(route("runs", run, "snapshots"), limit)]

    def metrics(self, run: str, after: int | None = None, limit: int | None = None) -> builtins.list[Metrics]:
        """The run's history (loss, learning rate, throughput, magnitudes) after `after` images seen."""
        pages = self._transport.pages(route("runs", run, "metrics"), limit, after=after)
        return [Metrics.model_validate(item) for item in pages]
