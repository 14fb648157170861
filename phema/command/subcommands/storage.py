"""`phema compact`, `phema bases`, `phema retain` and `phema pin`: the storage of a run."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from phema.client.average_models import Basis, BasisPlan, Retention
from phema.command.options import (
    At,
    JsonFlag,
    Limit,
    NoWait,
    RunName,
    RunOrPlace,
    client,
    screen,
    store_failures,
)
from phema.command.stored_runs import compact_stored, refuse_no_wait, stored_run
from phema.command.wanted_profiles import lr_decays
from phema.terminal.formats import figure, size, when
from phema.terminal.live_progress import follow_job
from phema.terminal.screen import Screen


class PolicyName(StrEnum):
    all = "all"
    thin = "thin"
    basis = "basis"
    latest = "latest"


def compact(
    context: typer.Context,
    run: RunOrPlace,
    at: At = None,
    shortest: Annotated[float, typer.Option("--from", help="Smallest sigma_rel that the basis covers.")] = 0.02,
    longest: Annotated[float, typer.Option("--to", help="Largest sigma_rel that the basis covers.")] = 0.25,
    tolerance: Annotated[float, typer.Option(help="Largest relative error that the basis may add.")] = 1e-4,
    lr_decay: Annotated[
        str | None,
        typer.Option("--lr-decay", metavar="SHAPE:IMAGES", help="Learning-rate decays that the basis covers too."),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only print what would be read and stored.")] = False,
    no_wait: NoWait = False,
    as_json: JsonFlag = False,
) -> None:
    """Compute a basis of a run: a few vectors from which any EMA length of a range is reconstructed quickly."""
    view = screen(as_json)
    asked: dict[str, Any] = {"sigma_rel_min": shortest, "sigma_rel_max": longest, "tolerance": tolerance}
    if lr_decay is not None:
        asked["profiles"] = lr_decays(lr_decay)
    if (stored := stored_run(run)) is not None:
        if no_wait:
            refuse_no_wait(stored)
        if plan:
            with store_failures():
                planned = stored.plan_basis(at, **asked)
            view.result(planned.to_json(), lambda: _show_plan(view, planned))
            return
        basis = compact_stored(view, stored, at, asked)
        view.result(basis.to_json(), lambda: _show(view, [basis]))
        return
    with client(context) as service:
        if plan:
            planned = service.plan_basis(run, at, **asked)
            view.result(planned.to_json(), lambda: _show_plan(view, planned))
            return
        basis = service.compact(run, at, **asked, wait=False)
        if not basis.done and basis.job_id and not no_wait:
            follow_job(service, view, basis.job_id, f"compacting {run}", "the same command picks it up again")
            basis = service.basis(basis.id)
    view.result(basis.to_json(), lambda: _show(view, [basis]))


def bases(context: typer.Context, run: RunName, limit: Limit = None, as_json: JsonFlag = False) -> None:
    """List the bases of a run."""
    view = screen(as_json)
    with client(context) as service:
        found = service.bases(run, limit)
    view.result(
        [basis.to_json() for basis in found],
        lambda: _show(view, found) if found else view.say(f"no basis yet; make one with: phema compact {run}"),
    )


def retain(
    context: typer.Context,
    run: RunName,
    policy: Annotated[
        PolicyName,
        typer.Option(
            help="all: keep every snapshot; thin: keep fewer of the older ones; basis: delete what a basis replaces; "
            "latest: keep the latest --keep times."
        ),
    ],
    keep: Annotated[
        int | None, typer.Option("--keep", min=1, metavar="K", help="With latest: number of times to keep.")
    ] = None,
    coarsest: Annotated[
        int | None,
        typer.Option(metavar="N", help="With thin: keep one of N times in the older half; a power of 2. Default: 8."),
    ] = None,
    at: Annotated[
        list[int] | None,
        typer.Option(
            "--at",
            metavar="NUM_IMAGES",
            help="Training time of the forecast; repeatable. Default: the end, half and quarter of the run.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Apply a policy that is refused otherwise.")] = False,
    apply: Annotated[
        bool, typer.Option("--apply", help="Delete the snapshots. Without --apply nothing is deleted.")
    ] = False,
    no_wait: NoWait = False,
    as_json: JsonFlag = False,
) -> None:
    """Print what a policy would free, and the errors of every EMA length before and after. --apply deletes."""
    view = screen(as_json)
    with client(context) as service:
        said = service.retain(
            run, policy, not apply, keep=keep, coarsest=coarsest, at=at or None, force=force, wait=False
        )
        if said.job is not None:
            view.note(f"{said.frees.snapshots} snapshots are given up and being deleted: {size(said.frees.bytes)}")
            if not no_wait:
                job = follow_job(
                    service,
                    view,
                    said.job.id,
                    f"deleting snapshots of {run}",
                    "what is given up is deleted all the same",
                )
                said = said.model_copy(update={"job": job})
    view.result(said.to_json(), lambda: _show_retention(view, run, said))


def pin(
    context: typer.Context,
    run: RunName,
    at: Annotated[
        int, typer.Option("--at", min=1, metavar="NUM_IMAGES", help="Training time of the snapshots to pin.")
    ],
    remove: Annotated[bool, typer.Option("--remove", help="Remove the pins.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Pin the snapshots of a training time: no policy deletes them."""
    view = screen(as_json)
    with client(context) as service:
        found = service.unpin(run, at) if remove else service.pin(run, at)
    sentence = f"{len(found)} snapshots at {at:,} images are {'no longer pinned' if remove else 'pinned'}"
    view.result([snapshot.to_json() for snapshot in found], lambda: view.say(sentence))


def _show_plan(view: Screen, plan: BasisPlan) -> None:
    rows = [
        ("time", f"{plan.num_images:,} images"),
        ("sigma_rel", f"{plan.sigma_rel_min:g} to {plan.sigma_rel_max:g}"),
        ("vectors", str(plan.vectors)),
        ("reads", size(plan.bytes_to_read)),
        ("stores", f"about {size(plan.bytes_to_store)}"),
        ("error added", f"{figure(plan.error_added)} at most"),
    ]
    view.table(("basis", ""), rows)


def _show(view: Screen, found: list[Basis]) -> None:
    columns = ("SIGMA_REL", "IMAGES", "VECTORS", "STATE", "ERROR_ADDED", "SIZE", "CREATED", "ID")
    rows = [
        (
            f"{basis.sigma_rel_min:g} to {basis.sigma_rel_max:g}",
            f"{basis.num_images:,}",
            str(basis.vectors),
            basis.state,
            figure(basis.error_added),
            size(basis.size),
            when(basis.created_at),
            basis.id,
        )
        for basis in found
    ]
    view.table(columns, rows, right=("IMAGES", "VECTORS", "ERROR_ADDED", "SIZE"))


def _show_retention(view: Screen, run: str, said: Retention) -> None:
    would, verb = ("would free", "keep") if said.dry_run else ("freed", "kept")
    view.say(
        f"{said.policy} {would} {size(said.frees.bytes)} ({said.frees.snapshots} snapshots) and {verb} "
        f"{size(said.keeps.bytes)} ({said.keeps.snapshots} snapshots)"
    )
    if said.pinned:
        view.say(f"{said.pinned} more stay because they are pinned")
    if said.in_use:
        view.say(f"{said.in_use} more stay this time because jobs read them or training may write them again")
    if said.times_lost:
        view.say(f"{said.times_lost} times {'would have' if said.dry_run else 'have'} no snapshot any more")
    if said.forecasts:
        _show_forecasts(view, said)
    if said.refused is not None:
        view.say(f"refused: {said.refused}")
    elif said.dry_run and said.frees.snapshots:
        view.say("nothing was deleted; --apply does it")


def _show_forecasts(view: Screen, said: Retention) -> None:
    """Print predicted errors before and after, one column per training time."""
    columns = ["SIGMA_REL", *(f"AT {forecast.num_images:,}" for forecast in said.forecasts)]
    grid = [line.sigma_rel for line in said.forecasts[0].errors]
    rows = [
        [f"{sigma_rel:g}", *(_change(f.errors[i].before, f.errors[i].after) for f in said.forecasts)]
        for i, sigma_rel in enumerate(grid)
    ]
    rows += [
        [f"{line.shape} decay, 20 %", *(_change(f.decays[i].before, f.decays[i].after) for f in said.forecasts)]
        for i, line in enumerate(said.forecasts[0].decays)
    ]
    view.table(columns, rows, right=columns)


def _change(before: float | None, after: float | None) -> str:
    return f"{_error(before)} → {_error(after)}"


def _error(error: float | None) -> str:
    return "none" if error is None else f"{error:.1e}"
