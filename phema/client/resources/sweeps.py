"""`client.sweeps`: evaluations over a grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from phema.client.polling import POLL_SECONDS, wait_for_job
from phema.client.resources.watched import Watched, filter_of, identity_of
from phema.client.response_models import Job, Run
from phema.client.rows import Rows
from phema.client.study_models import Sweep
from phema.client.transport import route


class Sweeps(Watched[Sweep]):
    """Requests about sweeps. `run` is a name or an id."""

    def create(
        self,
        /,
        run: str | Run,
        *,
        wait: bool = True,
        on_progress: Callable[[Job], None] | None = None,
        **grid: Any,
    ) -> Sweep:
        """As `Client.sweep`."""
        return self._submit("/v1/sweeps", {"run": identity_of(run), **_body(grid)}, wait, on_progress)

    def extend(
        self, /, sweep: str | Sweep, *, wait: bool = True, on_progress: Callable[[Job], None] | None = None, **more: Any
    ) -> Sweep:
        """A new sweep that holds the points of `sweep` and more: further values of axes, or a larger `num_samples`.

        What was computed is not computed again. Arguments as those of `Client.sweep`; values are added.
        """
        path = route("sweeps", identity_of(sweep), "extend")
        return self._submit(path, _body(more), wait, on_progress)

    def get(self, sweep: str | Sweep, /) -> Sweep:
        """The sweep with this id, with its points so far."""
        return Sweep.read(self._transport.get(route("sweeps", identity_of(sweep))))

    def list(self, run: str | Run | None = None, limit: int | None = None) -> Rows[Sweep]:
        """The sweeps of one run, or of all runs, newest first and without their points; at most `limit`."""
        return Rows(Sweep.read(item) for item in self._transport.pages("/v1/sweeps", limit, run=filter_of(run)))

    def cancel(self, sweep: str | Sweep) -> Sweep:
        """Cancel a sweep. Points that are evaluated stay; the same request continues the sweep."""
        self._transport.post(route("jobs", self.get(sweep).job.id, "cancel"))
        return self.get(sweep)

    def _submit(self, path: str, body: dict[str, Any], wait: bool, on_progress: Callable[[Job], None] | None) -> Sweep:
        asked = Sweep.read(self._transport.post(path, body))
        if wait and not asked.done:
            wait_for_job(self._transport, asked.job.id, on_progress, None, POLL_SECONDS)
        return self.get(asked.id)


def _body(grid: Mapping[str, Any]) -> dict[str, Any]:
    """JSON of the arguments: profiles as their documents, tuples and ranges as lists. None is left out."""
    return {name: _json(value) for name, value in grid.items() if value is not None}


def _json(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {name: _json(entry) for name, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_json(entry) for entry in value]
    return value
