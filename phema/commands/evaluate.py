"""`phema evaluate` and `phema evaluations`: sample, score, compare."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from phema.client import Client
from phema.commands.options import (
    SIGMA_REL_HELP,
    At,
    JsonFlag,
    Limit,
    NoWait,
    client,
    folder,
    screen,
    wanted_sigma_rels,
)
from phema.commands.reconstruct import finish
from phema.errors import InvalidArgument
from phema.following import download, follow_evaluations
from phema.records import Evaluation, Reconstruction
from phema.screen import Screen, figure, when


class Metric(StrEnum):
    frechet = "frechet"
    held_out_loss = "held_out_loss"


def evaluate(
    context: typer.Context,
    targets: Annotated[
        list[str],
        typer.Argument(metavar="RUN | RECONSTRUCTION...", help="A run with --sigma-rel, or ids of reconstructions."),
    ],
    sigma_rel: Annotated[str | None, typer.Option("--sigma-rel", metavar="LIST", help=SIGMA_REL_HELP)] = None,
    at: At = None,
    num_samples: Annotated[
        int | None, typer.Option("--num-samples", min=1, help="Pictures to draw for the figures.")
    ] = None,
    num_steps: Annotated[int | None, typer.Option("--num-steps", min=2, help="Steps of the sampler.")] = None,
    guidance: Annotated[float | None, typer.Option("--guidance", help="Guidance weight; 1 is none.")] = None,
    guide: Annotated[str | None, typer.Option("--guide", metavar="RECONSTRUCTION", help="Weights that guide.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Seed of the first picture.")] = None,
    metric: Annotated[
        list[Metric] | None, typer.Option("--metric", help="Figure to compute; repeatable, default both.")
    ] = None,
    grid: Annotated[int | None, typer.Option("--grid", min=1, help="Rows and columns of the picture kept.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="Download the pictures into this folder.")
    ] = None,
    no_wait: NoWait = False,
    as_json: JsonFlag = False,
) -> None:
    """Sample from reconstructed weights and score them; a run's are reconstructed first where need be."""
    options = {
        "num_samples": num_samples,
        "num_steps": num_steps,
        "guidance": guidance,
        "guide_id": guide,
        "seed": seed,
        "metrics": metric or None,
        "grid": grid,
    }
    recipe: dict[str, Any] = {field: value for field, value in options.items() if value is not None}
    wanted = None if sigma_rel is None else wanted_sigma_rels(sigma_rel)
    target, view = folder(output), screen(as_json)
    with client(context) as service:
        weights = _weights(service, view, targets, wanted, at)
        evaluations = [service.evaluate(item, wait=False, **recipe) for item in weights]
        if not no_wait:
            way_back = "the same command picks them up again"
            title = f"evaluating {len(weights)} sets of weights" if len(weights) > 1 else "evaluating"
            evaluations = follow_evaluations(service, view, evaluations, title, way_back)
        files = {} if target is None or no_wait else _pictures(service, view, evaluations, target)
    document = [item.to_json() | ({"file": files[item.id]} if item.id in files else {}) for item in evaluations]
    view.result(document, lambda: show_evaluations(view, evaluations, files))


def evaluations(
    context: typer.Context,
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Only those of this run.")] = None,
    limit: Limit = None,
    as_json: JsonFlag = False,
) -> None:
    """List evaluations and mark the best one."""
    view = screen(as_json)
    with client(context) as service:
        found = service.evaluations(run, limit)
    view.result(
        [item.to_json() for item in found],
        lambda: show_evaluations(view, found, {}) if found else view.say("no evaluations yet"),
    )


def show_evaluations(view: Screen, evaluations: list[Evaluation], files: dict[str, str]) -> None:
    """A table of figures over sigma_rel, the smallest Fréchet distance marked."""
    best = best_of(evaluations)
    columns = ["SIGMA_REL", "IMAGES", "STATE", "FRECHET", "HELD_OUT_LOSS", "", "SAMPLES", "CREATED", "ID"]
    rows = []
    for evaluation in evaluations:
        figures = evaluation.figures or {}
        row = [f"{evaluation.sigma_rel:g}", f"{evaluation.num_images:,}", evaluation.state]
        row += [figure(figures.get("frechet")), figure(figures.get("held_out_loss"))]
        row += ["best" if evaluation.id in best else "", str(evaluation.recipe.get("num_samples", ""))]
        row += [when(evaluation.created_at), evaluation.id]
        rows.append([*row, files[evaluation.id]] if files else row)
    right = ("SIGMA_REL", "IMAGES", "FRECHET", "HELD_OUT_LOSS", "SAMPLES")
    view.table([*columns, "FILE"] if files else columns, rows, right=right)


def best_of(evaluations: Sequence[Evaluation]) -> set[str]:
    """Ids of the smallest Fréchet distance in each group that can be compared: one run under one recipe."""
    groups: dict[str, list[tuple[float, str]]] = {}
    for item in evaluations:
        distance = (item.figures or {}).get("frechet")
        if distance is not None:
            groups.setdefault(item.run_id + json.dumps(item.recipe, sort_keys=True), []).append((distance, item.id))
    return {min(group)[1] for group in groups.values() if len(group) > 1}


def _weights(
    service: Client, view: Screen, targets: list[str], wanted: list[float] | None, at: int | None
) -> list[Reconstruction]:
    ids = [target for target in targets if target.startswith("rec-")]
    if wanted is None:
        if len(ids) < len(targets):
            raise InvalidArgument(
                f"{next(t for t in targets if t not in ids)!r} is no reconstruction; for a run, add --sigma-rel"
            )
        if at is not None:
            raise InvalidArgument("--at goes with a run and --sigma-rel; a reconstruction has its time already")
        return [service.reconstruction(identity) for identity in ids]
    if len(targets) != 1 or ids:
        raise InvalidArgument("--sigma-rel goes with exactly one run; reconstructions have theirs already")
    return finish(service, view, service.reconstruct(targets[0], wanted, at, wait=False))


def _pictures(service: Client, view: Screen, evaluations: list[Evaluation], target: Path) -> dict[str, str]:
    files = {}
    for item in evaluations:
        path = target / f"samples-{item.num_images}-{item.sigma_rel}-{item.id}.png"
        files[item.id] = str(download(service, view, item.id, path))
    return files
