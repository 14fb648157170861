"""Commands on a folder or bucket of snapshots, without a service: which arguments mean one, and `reconstruct`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from phema.client.average_models import Basis
from phema.client.response_models import Snapshot
from phema.command.options import store_failures
from phema.errors import InvalidArgument
from phema.shared.snapshots.stores.locations import is_location
from phema.terminal.formats import figure, size
from phema.terminal.screen import Screen

if TYPE_CHECKING:  # NumPy and the planner would slow the commands of a service down
    from phema.sdk.run_folders.results import ReconstructedFile, Verification
    from phema.sdk.run_folders.stored_run import StoredRun


def stored_run(argument: str, run: str | None = None) -> StoredRun | None:
    """The run in the folder or bucket that `argument` names; None if it is the name of a run of a service.

    A URL or a text with a `/` is a place. A plain name is one if a folder of that name holds snapshots. `run` is the
    value of `--run`. Raises InvalidArgument and PhemaError.
    """
    place = is_location(argument)
    if not place and not Path(argument).is_dir():
        _refuse_run(argument, run)
        return None
    if place and "://" not in argument and not Path(argument).expanduser().exists():
        raise InvalidArgument(f"RUN {argument} does not exist on this machine; give a folder, a URL or a run's name")
    from phema.sdk.run_folders.folder_runs import NoRun
    from phema.sdk.run_folders.opening import open as open_stored

    with store_failures():
        try:
            return open_stored(argument, run)
        except NoRun:
            if place:
                raise
            _refuse_run(argument, run)
            return None


def _refuse_run(argument: str, run: str | None) -> None:
    if run is not None:
        raise InvalidArgument(f"--run {run} chooses a run of a folder; {argument} is none")


def reconstruct_stored(
    view: Screen, stored: StoredRun, asked: dict[str, Any], dtype: str, output: Path | None
) -> list[ReconstructedFile]:
    """Reconstruct with a progress bar and print the files. `asked`: the arguments of `StoredRun.plan`."""
    if output is None:
        raise InvalidArgument(
            "--output is missing: name the file (FILE.safetensors) or folder for the weights, which are kept nowhere "
            "else without a service"
        )
    with store_failures(), view.bar(f"reconstructing from {stored.location}") as bar:
        return stored.reconstruct(
            **asked,
            dtype=dtype,  # type: ignore[arg-type]  # one of the option's values
            output=output,
            on_progress=lambda done, total: bar.update(done, total, f"{size(done)} of {size(total)}"),
        )


def refuse_no_wait(stored: StoredRun) -> NoReturn:
    raise InvalidArgument(f"--no-wait is for a service; this command itself reads {stored.location}")


def compact_stored(view: Screen, stored: StoredRun, at: int | None, asked: dict[str, Any]) -> Basis:
    """Compute a basis with a progress bar. `asked`: the range, tolerance and profiles of `StoredRun.compact`."""
    with store_failures(), view.bar(f"compacting {stored.location}") as bar:
        return stored.compact(
            at,
            **asked,
            on_progress=lambda done, total: bar.update(done, total, f"{size(done)} of {size(total)}"),
        )


def stored_snapshots(stored: StoredRun) -> list[Snapshot]:
    """The snapshots of a folder or bucket, as the client lists those of a service's run."""
    with store_failures():
        found = stored.snapshots()
    return [
        Snapshot(
            id=s.id,
            num_images=s.num_images,
            profile=s.profile.model_dump(mode="json"),
            sigma_rel=s.profile.sigma_rel,
            size=s.size,
            sha256=s.sha256,
        )
        for s in found
    ]


def verify_stored(view: Screen, stored: StoredRun) -> Verification:
    """Verify a folder or bucket with a progress bar."""
    with store_failures(), view.bar(f"verifying {stored.location}") as bar:
        return stored.verify(lambda done, total: bar.update(done, total, f"{size(done)} of {size(total)}"))


def show_files(view: Screen, files: list[ReconstructedFile]) -> None:
    columns = ("PROFILE", "IMAGES", "DTYPE", "PREDICTED_ERROR", "SIZE", "FILE")
    rows = [
        (file.label, f"{file.num_images:,}", file.dtype, figure(file.predicted_error), size(file.size), str(file.path))
        for file in files
    ]
    view.table(columns, rows, right=("IMAGES", "PREDICTED_ERROR", "SIZE"))
