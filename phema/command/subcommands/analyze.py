"""`phema analyze`: the paper's analyses of any run. Evaluates what is missing, then shows what there is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from phema.command.options import SIGMA_REL_HELP, At, JsonFlag, RunName, client, folder, screen
from phema.command.run_names import names_of_runs
from phema.command.sigma_rel_lists import RangeError, expand, sigma_rels
from phema.errors import InvalidArgument
from phema.terminal import analysis_output
from phema.terminal.grid_of_evaluations import GridPoint, Weights, evaluate_grid
from phema.terminal.live_progress import follow_reconstructions

app = typer.Typer(help="Analyses of the paper on any run: data with errors, and pictures.", no_args_is_help=True)

Runs = Annotated[
    list[str],
    typer.Argument(metavar="RUN...", help="Names or ids; several runs are compared.", autocompletion=names_of_runs),
]
Lengths = Annotated[
    str | None,
    typer.Option("--sigma-rel", metavar="LIST", help=f"{SIGMA_REL_HELP} Default: only what is evaluated already."),
]
Length = Annotated[float | None, typer.Option("--sigma-rel", help="EMA length of the main weights.")]
NumSamples = Annotated[int | None, typer.Option("--num-samples", min=1, help="Number of pictures per point.")]
NumSteps = Annotated[int | None, typer.Option("--num-steps", min=2, help="Steps of the sampler.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Seed of the first picture.")]
Figure = Annotated[
    str | None, typer.Option("--figure", help="Figure to study. Default: the one by which evaluations are ranked.")
]
Output = Annotated[
    Path | None, typer.Option("--output", metavar="DIR", help="Write JSON, CSV, SVG and PNG into this folder.")
]
GuideRun = Annotated[
    str | None,
    typer.Option("--guide-run", metavar="RUN", help="Run of the guide's weights.", autocompletion=names_of_runs),
]
GuideLength = Annotated[float | None, typer.Option("--guide-sigma-rel", help="EMA length of the guide.")]
GuideImages = Annotated[
    int | None, typer.Option("--guide-images", min=1, metavar="NUM_IMAGES", help="Time of the guide. Default: latest.")
]


@app.callback()
def analyze() -> None:
    """Analyses of the paper on any run: data with errors, and pictures."""


@app.command("ema-length")
def ema_length(
    context: typer.Context,
    runs: Runs,
    sigma_rel: Lengths = None,
    at: At = None,
    num_samples: NumSamples = None,
    num_steps: NumSteps = None,
    seed: Seed = None,
    figure: Figure = None,
    output: Output = None,
    as_json: JsonFlag = False,
) -> None:
    """A figure over the EMA length, for one or more runs (Figure 5a)."""
    recipe = _recipe(num_samples, num_steps, seed)
    points = [GridPoint(Weights(run, width, at), recipe) for run in runs for width in _lengths(sigma_rel)]
    _analyze(context, "ema-length", runs, points, figure=figure, at=at, output=output, as_json=as_json)


@app.command("tensors")
def tensors(
    context: typer.Context,
    run: RunName,
    sigma_rel: Length = None,
    pattern: Annotated[
        list[str] | None,
        typer.Option("--pattern", help="Pattern of tensor names, such as '*conv*'; repeatable, one curve each."),
    ] = None,
    tensor_sigma_rel: Annotated[
        str | None, typer.Option("--tensor-sigma-rel", metavar="LIST", help="EMA lengths of the tensors of a pattern.")
    ] = None,
    at: At = None,
    num_samples: NumSamples = None,
    num_steps: NumSteps = None,
    seed: Seed = None,
    figure: Figure = None,
    output: Output = None,
    as_json: JsonFlag = False,
) -> None:
    """Change of a figure when the tensors of one pattern have another EMA length (Figure 5b)."""
    recipe = _recipe(num_samples, num_steps, seed)
    _all_or_none({"--sigma-rel": sigma_rel, "--pattern": pattern, "--tensor-sigma-rel": tensor_sigma_rel})
    points = []
    if sigma_rel is not None:
        own = [(name, width) for name in pattern or () for width in _lengths(tensor_sigma_rel, "--tensor-sigma-rel")]
        changed = [Weights(run, sigma_rel, at, tensors=pair) for pair in own]
        points = [GridPoint(weights, recipe) for weights in (Weights(run, sigma_rel, at), *changed)]
    _analyze(context, "tensors", [run], points, figure=figure, at=at, output=output, as_json=as_json)


@app.command("training-time")
def training_time(
    context: typer.Context,
    runs: Runs,
    sigma_rel: Lengths = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="LIST", help="Training times in images: 6400,12800,...,76800.")
    ] = None,
    num_samples: NumSamples = None,
    num_steps: NumSteps = None,
    seed: Seed = None,
    figure: Figure = None,
    output: Output = None,
    as_json: JsonFlag = False,
) -> None:
    """The best value of a figure over training time, and the EMA length at which it lies (Figure 5c)."""
    recipe = _recipe(num_samples, num_steps, seed)
    _all_or_none({"--sigma-rel": sigma_rel, "--at": at})
    times = [int(value) for value in _numbers("--at", at)]
    points = [
        GridPoint(Weights(run, width, time), recipe) for run in runs for time in times for width in _lengths(sigma_rel)
    ]
    _analyze(context, "training-time", runs, points, figure=figure, at=None, output=output, as_json=as_json)


@app.command("guidance")
def guidance(
    context: typer.Context,
    run: RunName,
    sigma_rel: Lengths = None,
    weights: Annotated[
        str | None, typer.Option("--guidance", metavar="LIST", help="Guidance weights: 1,1.5,...,3; 1 is no guidance.")
    ] = None,
    guide_run: GuideRun = None,
    guide_sigma_rel: GuideLength = None,
    guide_images: GuideImages = None,
    at: At = None,
    num_samples: NumSamples = None,
    num_steps: NumSteps = None,
    seed: Seed = None,
    figure: Figure = None,
    output: Output = None,
    as_json: JsonFlag = False,
) -> None:
    """A figure over EMA length and guidance weight with one guide (Figure 6)."""
    recipe = _recipe(num_samples, num_steps, seed)
    _all_or_none({"--sigma-rel": sigma_rel, "--guidance": weights})
    guide = _guide(guide_run, guide_sigma_rel, guide_images, needed=weights is not None)
    points = [
        _guided(Weights(run, width, at), weight, recipe, guide)
        for width in _lengths(sigma_rel)
        for weight in _numbers("--guidance", weights)
    ]
    _analyze(context, "guidance", [run], points, figure=figure, at=at, output=output, as_json=as_json)


@app.command("autoguidance")
def autoguidance(
    context: typer.Context,
    run: RunName,
    sigma_rel: Length = None,
    weights: Annotated[
        str | None, typer.Option("--guidance", metavar="LIST", help="Guidance weights: 1,1.5,...,3; 1 is no guidance.")
    ] = None,
    guide_run: GuideRun = None,
    guide_sigma_rel: Annotated[
        str | None, typer.Option("--guide-sigma-rel", metavar="LIST", help="EMA lengths of the guide.")
    ] = None,
    guide_images: Annotated[
        str | None, typer.Option("--guide-images", metavar="LIST", help="Training times of the guide. Default: latest.")
    ] = None,
    at: At = None,
    num_samples: NumSamples = None,
    num_steps: NumSteps = None,
    seed: Seed = None,
    figure: Figure = None,
    output: Output = None,
    as_json: JsonFlag = False,
) -> None:
    """A figure over guidance weight or the guide's EMA length, one curve per guide."""
    recipe = _recipe(num_samples, num_steps, seed)
    given = {"--sigma-rel": sigma_rel, "--guidance": weights, "--guide-run": guide_run}
    _all_or_none(given | {"--guide-sigma-rel": guide_sigma_rel})
    times: list[int | None] = [int(value) for value in _numbers("--guide-images", guide_images)]
    widths = _lengths(guide_sigma_rel, "--guide-sigma-rel")
    guides = [Weights(guide_run or "", width, time) for time in times or [None] for width in widths]
    points = [
        _guided(Weights(run, sigma_rel or 0.0, at), weight, recipe, guide)
        for guide in guides
        for weight in _numbers("--guidance", weights)
    ]
    _analyze(context, "autoguidance", [run], points, figure=figure, at=at, output=output, as_json=as_json)


@app.command("interval")
def interval(
    context: typer.Context,
    run: RunName,
    sigma_rel: Length = None,
    weight: Annotated[float | None, typer.Option("--guidance", help="Guidance weight, other than 1.")] = None,
    low: Annotated[
        str | None, typer.Option("--low", metavar="LIST", help="Noise levels above which the sampler is guided.")
    ] = None,
    high: Annotated[
        str | None, typer.Option("--high", metavar="LIST", help="Noise levels up to which the sampler is guided.")
    ] = None,
    guide_run: GuideRun = None,
    guide_sigma_rel: GuideLength = None,
    guide_images: GuideImages = None,
    at: At = None,
    num_samples: NumSamples = None,
    num_steps: NumSteps = None,
    seed: Seed = None,
    figure: Figure = None,
    output: Output = None,
    as_json: JsonFlag = False,
) -> None:
    """A figure over the noise levels at which the sampler is guided, beside guidance at all levels and at none."""
    recipe = _recipe(num_samples, num_steps, seed)
    _all_or_none({"--sigma-rel": sigma_rel, "--guidance": weight, "--low": low, "--high": high})
    guide = _guide(guide_run, guide_sigma_rel, guide_images, needed=weight is not None)
    points = []
    if sigma_rel is not None and weight is not None:
        main = Weights(run, sigma_rel, at)
        ends = [(a, b) for a in _numbers("--low", low) for b in _numbers("--high", high) if a < b]
        points = [GridPoint(main, recipe), GridPoint(main, recipe | {"guidance": weight}, guide)]
        limited = [recipe | {"guidance": weight, "guidance_interval": list(pair)} for pair in ends]
        points += [GridPoint(main, own, guide) for own in limited]
    _analyze(context, "interval", [run], points, figure=figure, at=at, output=output, as_json=as_json)


@app.command("profiles")
def profiles(
    context: typer.Context,
    run: RunName,
    sigma_rel: Annotated[
        str | None,
        typer.Option("--sigma-rel", metavar="LIST", help=f"{SIGMA_REL_HELP} Default: those reconstructed already."),
    ] = None,
    at: At = None,
    output: Output = None,
    as_json: JsonFlag = False,
) -> None:
    """Wanted and reconstructed weighting of the training history (Figure 4)."""
    target, view = folder(output), screen(as_json)
    with client(context) as service:
        if widths := _lengths(sigma_rel):
            follow_reconstructions(service, view, service.reconstruct(run, widths, at, wait=False))
        found = service.analyses.profiles(run, num_images=at)
        files = (
            []
            if target is None
            else analysis_output.write_files(service, "profiles", [run], target, figure=None, num_images=at)
        )
    view.result(found | ({"files": files} if files else {}), lambda: analysis_output.show_profiles(view, found, files))


def _analyze(
    context: typer.Context,
    name: str,
    runs: Sequence[str],
    points: Sequence[GridPoint],
    *,
    figure: str | None,
    at: int | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Evaluate the points, then show the analysis of all finished evaluations."""
    target, view = folder(output), screen(as_json)
    with client(context) as service:
        if points:
            evaluate_grid(service, view, points)
        found = service.analyses.get(name, runs, figure=figure, num_images=at)
        files = (
            []
            if target is None
            else analysis_output.write_files(service, name, runs, target, figure=figure, num_images=at)
        )
    view.result(analysis_output.document(found, files), lambda: analysis_output.show(view, found, files))


def _recipe(num_samples: int | None, num_steps: int | None, seed: int | None) -> dict[str, Any]:
    given = {"num_samples": num_samples, "num_steps": num_steps, "seed": seed}
    return {name: value for name, value in given.items() if value is not None}


def _guided(weights: Weights, weight: float, recipe: dict[str, Any], guide: Weights | None) -> GridPoint:
    """A point of a study of guidance; weight 1 needs no guide."""
    return GridPoint(weights, recipe) if weight == 1 else GridPoint(weights, recipe | {"guidance": weight}, guide)


def _guide(run: str | None, sigma_rel: float | None, num_images: int | None, *, needed: bool) -> Weights | None:
    _all_or_none({"--guide-run": run, "--guide-sigma-rel": sigma_rel})
    if run is None or sigma_rel is None:
        if needed:
            raise InvalidArgument("--guidance needs a guide; add --guide-run and --guide-sigma-rel")
        return None
    return Weights(run, sigma_rel, num_images)


def _all_or_none(options: dict[str, Any]) -> None:
    """Options that together name the points to evaluate; without any, only finished evaluations are shown."""
    missing = [name for name, value in options.items() if value is None]
    if missing and len(missing) < len(options):
        given = [name for name in options if name not in missing]
        raise InvalidArgument(
            f"{' and '.join(given)} needs {' and '.join(missing)}, too; without any of them, only finished "
            "evaluations are analysed"
        )


def _lengths(text: str | None, option: str = "--sigma-rel") -> list[float]:
    try:
        return [] if text is None else list(sigma_rels(text))
    except RangeError as error:
        raise InvalidArgument(f"{option}: {error}") from None


def _numbers(option: str, text: str | None) -> list[float]:
    try:
        return [] if text is None else [float(value) for value in expand(text)]
    except RangeError as error:
        raise InvalidArgument(f"{option}: {error}") from None
