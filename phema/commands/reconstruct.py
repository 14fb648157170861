"""`phema reconstruct` and `phema reconstructions`: EMA lengths chosen after training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phema.client import Client
from phema.commands.options import (
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
    wanted_sigma_rels,
)
from phema.following import download, follow_job
from phema.records import Plan, Reconstruction
from phema.screen import Screen, figure, size, when


def reconstruct(
    context: typer.Context,
    run: RunName,
    sigma_rel: Annotated[str, typer.Option("--sigma-rel", metavar="LIST", help=SIGMA_REL_HELP)],
    at: At = None,
    dtype: Annotated[Dtype, typer.Option(help="Number format of the reconstructed weights.")] = Dtype.float32,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="Download the weights into this folder.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say what would be read and how exact it would be; reads no weights.")
    ] = False,
    no_wait: NoWait = False,
    as_json: JsonFlag = False,
) -> None:
    """Reconstruct the weights of a run for any EMA lengths, in one pass over its snapshots."""
    wanted, target, view = wanted_sigma_rels(sigma_rel), folder(output), screen(as_json)
    with client(context) as service:
        if plan:
            _show_plan(view, service.plan(run, wanted, at, dtype=dtype))
            return
        items = service.reconstruct(run, wanted, at, dtype=dtype, wait=False)
        if not no_wait:
            items = finish(service, view, items)
        files = {} if target is None or no_wait else _download(service, view, run, items, target)
    document = [item.to_json() | ({"file": files[item.id]} if item.id in files else {}) for item in items]
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


def finish(service: Client, view: Screen, items: list[Reconstruction]) -> list[Reconstruction]:
    """Wait under a bar until every reconstruction is there."""
    jobs = dict.fromkeys(item.job_id for item in items if not item.done and item.job_id)
    for job in jobs:
        count = sum(item.job_id == job for item in items)
        title = f"reconstructing {count} profiles" if count > 1 else "reconstructing"
        follow_job(service, view, job, title, "the same command picks it up again")
    return [service.reconstruction(item.id) for item in items]


def _download(service: Client, view: Screen, run: str, items: list[Reconstruction], target: Path) -> dict[str, str]:
    files = {}
    for item in items:
        suffix = "" if item.dtype == "float32" else f"-{item.dtype}"
        path = target / f"{run}-{item.num_images}-{item.sigma_rel}{suffix}.safetensors"
        files[item.id] = str(download(service, view, item.id, path))
    return files


def _show(view: Screen, items: list[Reconstruction], files: dict[str, str]) -> None:
    columns = ["SIGMA_REL", "IMAGES", "DTYPE", "STATE", "PREDICTED_ERROR", "SIZE", "CREATED", "ID"]
    rows = [
        [
            f"{item.sigma_rel:g}",
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
    view.table(columns, rows, right=("SIGMA_REL", "IMAGES", "PREDICTED_ERROR", "SIZE"))


def _show_plan(view: Screen, plan: Plan) -> None:
    def human() -> None:
        times = sorted({snapshot.num_images for snapshot in plan.snapshots})
        view.say(
            f"at {plan.num_images:,} images, from {len(plan.snapshots)} snapshots at {len(times)} times, "
            f"reading {size(plan.bytes_to_read)}"
        )
        rows = [(f"{o.sigma_rel:g}", figure(o.predicted_error), figure(o.noise_gain)) for o in plan.outputs]
        columns = ("SIGMA_REL", "PREDICTED_ERROR", "NOISE_GAIN")
        view.table(columns, rows, right=columns)

    view.result(plan.to_json(), human)
