"""`phema reconstruct` and `phema reconstructions`: choose EMA lengths after training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phema.client.average_models import Plan, PredictedErrors, Reconstruction
from phema.client.client import Client
from phema.client.rows import Rows
from phema.command.options import (
    SIGMA_REL_HELP,
    At,
    Dtype,
    JsonFlag,
    Limit,
    NoWait,
    RunName,
    RunOrPlace,
    client,
    folder,
    screen,
    store_failures,
)
from phema.command.stored_runs import reconstruct_stored, refuse_no_wait, show_files, stored_run
from phema.command.wanted_profiles import wanted_profiles
from phema.errors import InvalidArgument
from phema.terminal.formats import figure, size, when
from phema.terminal.live_progress import download, follow_reconstructions
from phema.terminal.screen import Screen

if TYPE_CHECKING:
    from phema.sdk.run_folders.stored_run import StoredRun


def reconstruct(
    context: typer.Context,
    run: RunOrPlace,
    sigma_rel: Annotated[str | None, typer.Option("--sigma-rel", metavar="LIST", help=SIGMA_REL_HELP)] = None,
    gamma: Annotated[
        str | None, typer.Option("--gamma", metavar="LIST", help="EMA lengths, given by their exponents γ.")
    ] = None,
    half_life: Annotated[
        str | None, typer.Option("--half-life", metavar="IMAGES", help="Traditional EMAs with these half-lives.")
    ] = None,
    window: Annotated[
        str | None, typer.Option("--window", metavar="IMAGES", help="Means over this number of last images.")
    ] = None,
    lr_decay: Annotated[
        str | None,
        typer.Option(
            "--lr-decay",
            metavar="SHAPE:IMAGES",
            help="Learning-rate decays over this number of last images: linear, cosine, 1-sqrt or 1-square.",
        ),
    ] = None,
    last_times: Annotated[
        int | None, typer.Option("--last-times", metavar="K", help="Mean of the weights at the last K stored times.")
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(
            "--profile", metavar="FILE.json", exists=True, dir_okay=False, help="JSON file with profiles of any kind."
        ),
    ] = None,
    tensor: Annotated[
        list[str] | None,
        typer.Option(
            "--tensor",
            metavar="PATTERN=SIGMA_REL",
            help="EMA length of the tensors whose names match; repeatable. The first match is used.",
        ),
    ] = None,
    at: At = None,
    dtype: Annotated[Dtype, typer.Option(help="Number format of the reconstructed weights.")] = Dtype.float32,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="DIR", help="Folder for the weights, or for one average a FILE.safetensors."),
    ] = None,
    of_folder: Annotated[
        str | None, typer.Option("--run", metavar="NAME", help="Run of a folder or bucket that holds several.")
    ] = None,
    no_regularize: Annotated[
        bool,
        typer.Option(
            "--no-regularize", help="Use the paper's plain least squares, which may amplify the snapshots' rounding."
        ),
    ] = False,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Predicted relative error that is sufficient. Fewer snapshots are read."),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only print what would be read, and the predicted errors. Reads no weights.")
    ] = False,
    no_wait: NoWait = False,
    as_json: JsonFlag = False,
) -> None:
    """Reconstruct the weights of a run for any EMA lengths, in one pass over its snapshots."""
    asked = vars(wanted_profiles(sigma_rel, gamma, half_life, window, lr_decay, last_times, profile, tensor or []))
    asked |= {"num_images": at, "regularize": not no_regularize, "tolerance": tolerance}
    view = screen(as_json)
    if (stored := stored_run(run, of_folder)) is not None:
        _without_service(view, stored, asked, dtype, output, plan=plan, no_wait=no_wait)
        return
    asked |= {"dtype": dtype}
    target = _target(output, len(asked.get("sigma_rel") or asked["profiles"]))
    with client(context) as service:
        if plan:
            _show_plan(view, service.plan(run, **asked))
            return
        items: list[Reconstruction] = service.reconstruct(run, **asked, wait=False)
        if not no_wait:
            items = Rows(follow_reconstructions(service, view, items))
        files = {} if target is None or no_wait else _download(service, view, run, items, target)
    document = [item.to_json() | ({"file": files[item.id]} if item.id in files else {}) for item in items]
    _warn(view, [item.advice for item in items])
    view.result(document, lambda: _show(view, items, files))


def _without_service(
    view: Screen,
    stored: StoredRun,
    asked: dict[str, Any],
    dtype: str,
    output: Path | None,
    *,
    plan: bool,
    no_wait: bool,
) -> None:
    """`reconstruct` for a folder or bucket. `asked`: the arguments of `StoredRun.plan`."""
    if no_wait:
        refuse_no_wait(stored)
    if plan:
        with store_failures():
            planned = stored.plan(**asked)
        _show_plan(view, planned)
        return
    files = reconstruct_stored(view, stored, asked, dtype, output)
    _warn(view, [file.advice for file in files])
    view.result([file.to_json() for file in files], lambda: show_files(view, files))


def reconstructions(context: typer.Context, run: RunName, limit: Limit = None, as_json: JsonFlag = False) -> None:
    """List the reconstructions of a run."""
    view = screen(as_json)
    with client(context) as service:
        items = service.reconstructions(run, limit)
    view.result(
        [item.to_json() for item in items],
        lambda: (
            _show(view, items, {})
            if items
            else view.say(f"nothing reconstructed yet; try: phema reconstruct {run} --sigma-rel 0.05,0.10,...,0.25")
        ),
    )


def _is_file(output: Path) -> bool:
    """Whether `--output` names one file, and not a folder."""
    return output.suffix == ".safetensors" and not output.is_dir()


def _target(output: Path | None, num_averages: int) -> Path | None:
    """The file, or the folder, which is made. Raises InvalidArgument before any work."""
    if output is None or not _is_file(output):
        return folder(output)
    if num_averages > 1:
        raise InvalidArgument(f"--output {output} is one file and {num_averages} averages are wanted; name a folder")
    folder(output.parent)
    return output


def _download(service: Client, view: Screen, run: str, items: list[Reconstruction], target: Path) -> dict[str, str]:
    files = {}
    for item in items:
        suffix = "" if item.dtype == "float32" else f"-{item.dtype}"
        # Different profiles may have the same label. Labels contain only characters that file names may contain.
        name = f"{item.label}-{item.id}" if item.sigma_rel is None else str(item.sigma_rel)
        path = target if _is_file(target) else target / f"{run}-{item.num_images}-{name}{suffix}.safetensors"
        files[item.id] = str(download(service, view, item.id, path))
    return files


def _show(view: Screen, items: list[Reconstruction], files: dict[str, str]) -> None:
    columns = ["PROFILE", "IMAGES", "DTYPE", "STATE", "PREDICTED_ERROR", "SIZE", "CREATED", "ID"]
    rows = [
        [
            item.label,
            f"{item.num_images:,}",
            item.dtype,
            item.state,
            figure(item.predicted_error),
            size(item.size),
            when(item.created_at),
            item.id,
        ]
        for item in items
    ]
    if files:
        columns.append("FILE")
        rows = [[*row, files.get(item.id, "")] for row, item in zip(rows, items, strict=True)]
    view.table(columns, rows, right=("IMAGES", "PREDICTED_ERROR", "SIZE"))


def _show_plan(view: Screen, plan: Plan) -> None:
    def human() -> None:
        times = sorted({snapshot.num_images for snapshot in plan.snapshots})
        what = f"{len(plan.snapshots)} snapshots at {len(times)} times"
        if plan.basis_id is not None:
            what = f"the {len(plan.snapshots)} vectors of {plan.basis_id}"
        took = "" if plan.seconds is None else f", about {plan.seconds:.2g} s"
        view.say(f"at {plan.num_images:,} images, from {what}, reading {size(plan.bytes_to_read)}{took}")
        if not plan.calibrated:
            view.say(
                "errors assume typical movement of the weights: these snapshots do not tell how much their weights move"
            )
        rows = []
        for output in plan.outputs:
            parts: list[tuple[PredictedErrors, str]] = [(output, output.label)]
            for part, label in parts + [(t, f"{t.pattern}: {t.label}") for t in output.tensors]:
                errors = (part.profile_error, part.rounding_error, part.predicted_error, part.noise_gain)
                rows.append((label, *map(figure, errors)))
        columns = ("PROFILE", "PROFILE_ERROR", "ROUNDING_ERROR", "PREDICTED_ERROR", "NOISE_GAIN")
        view.table(columns, rows, right=columns[1:])
        _show_learning_rates(view, plan)

    _warn(view, [output.advice for output in plan.outputs])
    view.result(plan.to_json(), human)


def _show_learning_rates(view: Screen, plan: Plan) -> None:
    """Print the multiplier of the learning rate that each average stands for."""
    times = [multiplier.num_images for multiplier in plan.outputs[0].learning_rate]
    if not times:
        return
    columns = ["LEARNING_RATE", *(f"AT {time:,}" for time in times)]
    rows = [[output.label, *(f"{m.multiplier:.3f}" for m in output.learning_rate)] for output in plan.outputs]
    view.table(columns, rows, right=columns[1:])


def _warn(view: Screen, advice: Sequence[str | None]) -> None:
    """Print each different warning once, on stderr."""
    for sentence in dict.fromkeys(filter(None, advice)):
        view.note(f"warning: {sentence}")
