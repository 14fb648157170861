"""`phema evaluate` and `phema evaluations`: sample pictures and compute metrics."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phema.client.average_models import Reconstruction
from phema.client.client import Client
from phema.client.response_models import Evaluation
from phema.client.sampling_presets import published_settings
from phema.command.options import (
    SIGMA_REL_HELP,
    At,
    JsonFlag,
    Limit,
    NoWait,
    client,
    folder,
    interval,
    screen,
)
from phema.command.run_names import names_of_runs
from phema.command.sigma_rel_lists import RangeError, sigma_rels
from phema.errors import InvalidArgument
from phema.shared.metrics.registry import FIGURES, METRICS, ranking_figure
from phema.terminal.formats import figure_with_error, when
from phema.terminal.live_progress import download, follow_evaluations, follow_reconstructions
from phema.terminal.screen import Screen

if TYPE_CHECKING:
    Metric = str
else:
    # The choices follow the registry.
    Metric = StrEnum("Metric", {name: name for name in METRICS})


def evaluate(
    context: typer.Context,
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN | RECONSTRUCTION...",
            help="A run with --sigma-rel, or ids of reconstructions.",
            autocompletion=names_of_runs,
        ),
    ],
    sigma_rel: Annotated[str | None, typer.Option("--sigma-rel", metavar="LIST", help=SIGMA_REL_HELP)] = None,
    at: At = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            help="Settings of a published figure; `phema presets sampling` lists them. Options replace them.",
        ),
    ] = None,
    num_samples: Annotated[
        int | None, typer.Option("--num-samples", min=1, help="Number of pictures to sample for the metrics.")
    ] = None,
    num_steps: Annotated[int | None, typer.Option("--num-steps", min=2, help="Steps of the sampler.")] = None,
    guidance: Annotated[
        float | None, typer.Option("--guidance", metavar="W", help="Guidance weight; 1 is no guidance. Needs a guide.")
    ] = None,
    guide: Annotated[
        str | None, typer.Option("--guide", metavar="RECONSTRUCTION", help="Id of the guide's weights.")
    ] = None,
    guide_run: Annotated[
        str | None,
        typer.Option(
            "--guide-run",
            metavar="RUN",
            help="Run of the guide's weights; needs --guide-sigma-rel.",
            autocompletion=names_of_runs,
        ),
    ] = None,
    guide_sigma_rel: Annotated[
        float | None, typer.Option("--guide-sigma-rel", help="EMA length of the guide from --guide-run.")
    ] = None,
    guide_images: Annotated[
        int | None,
        typer.Option(
            "--guide-images",
            min=1,
            metavar="NUM_IMAGES",
            help="Training time of the guide from --guide-run. Default: the latest.",
        ),
    ] = None,
    guidance_interval: Annotated[
        str | None,
        typer.Option(
            "--guidance-interval", metavar="LOW,HIGH", help="Guide only at noise levels between these. Default: at all."
        ),
    ] = None,
    churn: Annotated[
        float | None, typer.Option("--churn", min=0, help="Amount of fresh noise over all steps; 0 is deterministic.")
    ] = None,
    churn_min: Annotated[
        float | None, typer.Option("--churn-min", min=0, help="Lowest noise level at which fresh noise is added.")
    ] = None,
    churn_max: Annotated[
        float | None, typer.Option("--churn-max", help="Highest noise level at which fresh noise is added.")
    ] = None,
    churn_noise: Annotated[
        float | None, typer.Option("--churn-noise", help="Scale of the fresh noise; 1 keeps the noise level.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Seed of the first picture.")] = None,
    metric: Annotated[
        list[Metric] | None,
        typer.Option("--metric", help="Metric to compute; repeatable. Default: all that the run supports."),
    ] = None,
    grid: Annotated[
        int | None, typer.Option("--grid", min=1, help="Rows and columns of the stored picture grid.")
    ] = None,
    keep_pictures: Annotated[
        bool, typer.Option("--keep-pictures", help="Keep all pictures, as a zip file that is a dataset.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="Download the pictures into this folder.")
    ] = None,
    no_wait: NoWait = False,
    as_json: JsonFlag = False,
) -> None:
    """Sample pictures and compute metrics. The weights of a run are reconstructed first if necessary."""
    options = {
        "num_samples": num_samples,
        "num_steps": num_steps,
        "guidance": guidance,
        "guidance_interval": None if guidance_interval is None else interval(guidance_interval),
        "churn": churn,
        "churn_min": churn_min,
        "churn_max": churn_max,
        "churn_noise": churn_noise,
        "seed": seed,
        "metrics": metric or None,
        "grid": grid,
        "keep_pictures": keep_pictures or None,
    }
    recipe: dict[str, Any] = {field: value for field, value in options.items() if value is not None}
    wanted = None if sigma_rel is None else _sigma_rels(sigma_rel)
    if preset is not None:
        published = published_settings(preset, guided=bool(guide or guide_run))
        recipe = published.recipe | recipe
        guidance = recipe.get("guidance")
        if wanted is None and not any(target.startswith("rec-") for target in targets):
            wanted = [published.sigma_rel]
        if published.guide is not None and guide_run is not None:
            guide_sigma_rel = guide_sigma_rel or published.guide.sigma_rel
            guide_images = guide_images or published.guide.num_images
    from_run = _guide_from_run(guide, guide_run, guide_sigma_rel, guide_images)
    if (guide or from_run) and guidance in (None, 1):
        raise InvalidArgument("a guide does nothing without a weight; add --guidance, such as --guidance 2")
    target, view = folder(output), screen(as_json)
    with client(context) as service:
        guides = [] if from_run is None else service.reconstruct(*from_run, wait=False)
        weights = _weights(service, view, targets, wanted, at)
        if guide or guides:
            recipe["guide_id"] = guide or follow_reconstructions(service, view, guides)[0].id
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
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="Only evaluations of this run.", autocompletion=names_of_runs)
    ] = None,
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
    """Print a table of figures. The best of comparable evaluations is marked."""
    best = best_of(evaluations)
    guided = any(_guidance(evaluation.recipe) for evaluation in evaluations)
    found = {name for evaluation in evaluations for name in evaluation.figures or {}}
    # In the order of the registry, which ranks by the first; --json has the losses of single noise levels too.
    names = [name for name in FIGURES if name in found and "_level_" not in name]
    headings = [name.upper() for name in names]
    columns = ["PROFILE", "IMAGES", "STATE", *headings, "", "SAMPLES"]
    columns += [*(["GUIDANCE"] if guided else []), "CREATED", "ID"]
    rows = []
    for evaluation in evaluations:
        figures = evaluation.figures or {}
        row = [evaluation.label, f"{evaluation.num_images:,}", evaluation.state]
        row += [figure_with_error(figures.get(name), (evaluation.errors or {}).get(name)) for name in names]
        row += ["best" if evaluation.id in best else "", str(evaluation.recipe.get("num_samples", ""))]
        row += [_guidance(evaluation.recipe)] if guided else []
        row += [when(evaluation.created_at), evaluation.id]
        rows.append([*row, files[evaluation.id]] if files else row)
    right = ("IMAGES", *headings, "SAMPLES")
    view.table([*columns, "FILE"] if files else columns, rows, right=right)


def _guidance(recipe: dict[str, Any]) -> str:
    """Weight and interval of the guidance; empty without guidance."""
    weight, interval = recipe.get("guidance", 1), recipe.get("guidance_interval")
    if weight == 1:
        return ""
    return f"{weight:g}" if interval is None else f"{weight:g} ({interval[0]:g}, {interval[1]:g}]"


def best_of(evaluations: Sequence[Evaluation]) -> set[str]:
    """Ids of the best evaluation of each run and recipe."""
    groups: dict[str, list[tuple[float, str]]] = {}
    for item in evaluations:
        found = {name: value for name, value in (item.figures or {}).items() if value is not None}
        ranking = ranking_figure(found)
        if ranking is not None:
            score = found[ranking.name] if ranking.better == "lower" else -found[ranking.name]
            groups.setdefault(item.run_id + json.dumps(item.recipe, sort_keys=True), []).append((score, item.id))
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
    return follow_reconstructions(service, view, service.reconstruct(targets[0], wanted, at, wait=False))


def _guide_from_run(
    guide: str | None, run: str | None, sigma_rel: float | None, num_images: int | None
) -> tuple[str, float, int | None] | None:
    """Arguments of `Client.reconstruct` for a guide that is given by run and EMA length."""
    if run is None:
        if sigma_rel is not None or num_images is not None:
            raise InvalidArgument("--guide-sigma-rel and --guide-images go with --guide-run")
        return None
    if guide is not None:
        raise InvalidArgument("--guide and --guide-run both name the guide; give one of them")
    if sigma_rel is None:
        raise InvalidArgument("--guide-run needs the EMA length of the guide; add --guide-sigma-rel")
    return run, sigma_rel, num_images


def _sigma_rels(text: str) -> list[float]:
    try:
        return list(sigma_rels(text))
    except RangeError as error:
        raise InvalidArgument(str(error)) from None


def _pictures(service: Client, view: Screen, evaluations: list[Evaluation], target: Path) -> dict[str, str]:
    files = {}
    for item in evaluations:
        path = target / f"samples-{item.num_images}-{item.label}-{item.id}.png"
        files[item.id] = str(download(service, view, item.id, path))
    return files
