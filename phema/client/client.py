"""`phema.Client`: every operation of the API, from Python. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from phema.client import downloads
from phema.client.operations.drawing import Drawing
from phema.client.operations.storing import Storing
from phema.client.operations.studying import Studying
from phema.client.resources.watched import identity_of
from phema.client.response_models import Run, System
from phema.client.transport import listed, route
from phema.errors import InvalidArgument


class Client(Drawing, Studying, Storing):
    """A connection to one phema service.

    `url` is the address of the API. The default is the environment variable `PHEMA_URL`, then the service that
    `phema up` runs from `PHEMA_STATE_DIR` (or `./.phema`); without either, ServiceUnreachable is raised. `token`
    defaults to `PHEMA_API_TOKEN`. `run` is a name, an id or a `Run` in every method.

    Groups of resources (`client.runs`, `client.evaluations`, …) have `list` and `get`; those with a state also `watch`,
    which polls until it is final, and `wait`, which raises JobFailed unless the work succeeded.

    Every method raises subclasses of `phema.PhemaError` (tree in `phema.errors`) with the service's own sentence.
    """

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
        return {item["name"]: item["config"] for item in listed(self._transport.get("/v1/presets"), "items")}

    def system(self) -> System:
        """The state of the deployment: its parts, its queue, and what every run stores."""
        return System.read(self._transport.get("/v1/system"))

    def download(
        self, identity: str, path: str | Path | None = None, *, on_progress: downloads.Progress | None = None
    ) -> Path:
        """Download weights (of a reconstruction, snapshot or model) or pictures (of an evaluation, sample or preview).

        `EVALUATION/archive` is the zip file of all pictures of an evaluation with `keep_pictures`.

        `path` is a file or an existing folder; None is the working directory. A download that stopped resumes, also
        in a later process. The file appears only when it is complete and its SHA-256 is the recorded one.
        """
        routes = {
            "rec": route("reconstructions", identity, "download"),
            "snap": route("snapshots", identity, "download"),
            "eval": route("evaluations", identity.removesuffix("/archive"), _file_of_evaluation(identity)),
            "smp": route("samples", identity, "file"),
            "prv": route("previews", identity, "download"),
            "mdl": route("models", identity, "download"),
        }
        file = routes.get(identity.partition("-")[0])
        if file is None:
            allowed = "rec-, snap-, eval-, smp-, prv- or mdl-"
            raise InvalidArgument(f"{identity!r} cannot be downloaded; ids that can start with {allowed}")
        return downloads.fetch(
            self._transport,
            file,
            Path(path or "."),
            hash_required=not file.endswith("/pictures"),
            on_progress=on_progress,
        )

    def report(self, runs: str | Run | Sequence[str | Run], path: str | Path = "report.html") -> Path:
        """Write a report of one or more runs: one HTML file that loads nothing. Returns the file.

        It shows what has been reconstructed and evaluated; nothing is computed. With several runs, it compares them.
        """
        names = [identity_of(run) for run in ([runs] if isinstance(runs, str | Run) else runs)]
        content = self._transport.content("/v1/reports", run=names)
        file = Path(path)
        try:
            file.write_bytes(content)
        except OSError as error:
            raise InvalidArgument(f"path {file} cannot be written: {error.strerror}") from error
        return file


def _file_of_evaluation(identity: str) -> str:
    return "archive" if identity.endswith("/archive") else "pictures"
