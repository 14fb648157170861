"""`phema reconstruct` and `phema reconstructions`: choose EMA lengths after training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from phema.client.client import Client
from phema.client.response_models import Plan, PredictedErrors, Reconstruction
from phema.command.options import (
    SIGMA_REL_HELP,
    At,
    Dtype,
    JsonFlag,
    Limit,
    NoWait,
    RunName,
    client,
    folder,
    screen,
)
from phema.command.wanted_profiles import wanted_profiles
from phema.terminal.formats import figure, size, when
from phema.terminal.live_progress import download, follow_reconstructions
from phema.terminal.screen import Screen


def reconstruct(
    context: typer.Context,
    run: RunName,
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
        Path | None, typer.Option("--output", metavar="DIR", help="Download the weights into this folder.")
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
    asked = vars(wanted_profiles(sigma_rel, gamma, half_life, window, profile, tensor or []))
    asked |= {"num_images": at, "dtype": dtype, "regularize": not no_regularize, "tolerance": tolerance}
    target, view = folder(output), screen(as_json)
    with client(context) as service:
        if plan:
            _show_plan(view, service.plan(run, **asked))
            return
        items = service.reconstruct(run, **asked, wait=False)
        if not no_wait:
            items = follow_reconstructions(service, view, items)
        files = {} if target is None or no_wait else _download(service, view, run, items, target)
    document = [item.to_json() | ({"file": files[item.id]} if item.id in files else {}) for item in items]
    _warn(view, [item.advice for item in items])
    view.result(document, lambda: _show(view, items, files))


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


def _download(service: Client, view: Screen, run: str, items: list[Reconstruction], target: Path) -> dict[str, str]:
    files = {}
    for item in items:
        suffix = "" if item.dtype == "float32" else f"-{item.dtype}"
        # Different profiles may have the same label. Labels contain only characters that file names may contain.
        name = f"{item.label}-{item.id}" if item.sigma_rel is None else str(item.sigma_rel)
        path = target / f"{run}-{item.num_images}-{name}{suffix}.safetensors"
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

    _warn(view, [output.advice for output in plan.outputs])
    view.result(plan.to_json(), human)


def _warn(view: Screen, advice: Sequence[str | None]) -> None:
    """Print each different warning once, on stderr."""
    for sentence in dict.fromkeys(filter(None, advice)):
        view.note(f"warning: {sentence}")
