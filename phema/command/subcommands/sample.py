"""`phema sample`: draw pictures, with a service or from a downloaded file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from phema.command.options import At, JsonFlag, NoWait, client, interval, screen, store_failures
from phema.errors import InvalidArgument, PhemaError
from phema.shared.validation_sentences import requirement
from phema.terminal.formats import size
from phema.terminal.live_progress import download, follow_job, follow_reconstructions
from phema.terminal.screen import Screen


class Format(StrEnum):
    grid = "grid"
    zip = "zip"
    npy = "npy"
    npz = "npz"


_SUFFIX = {Format.grid: ".png", Format.zip: ".zip", Format.npy: ".npy", Format.npz: ".npz"}


def sample(
    context: typer.Context,
    target: Annotated[
        str,
        typer.Argument(
            metavar="RUN | RECONSTRUCTION | MODEL | FILE",
            help="A run with --sigma-rel, the id of a reconstruction, the name of a model, or a downloaded file or "
            "folder, which needs no service.",
        ),
    ],
    sigma_rel: Annotated[
        float | None, typer.Option("--sigma-rel", help="EMA length of a run, which is reconstructed first.")
    ] = None,
    at: At = None,
    seeds: Annotated[str, typer.Option(metavar="LIST", help="One picture per seed: 7, 0-63 or 0-63,100.")] = "0-63",
    class_label: Annotated[
        str,
        typer.Option(
            "--class",
            metavar="CLASS",
            help="Class of every picture: number, name of a class folder, random (each seed draws its own) or none.",
        ),
    ] = "random",
    format: Annotated[
        Format | None,
        typer.Option(
            help="grid (one PNG), zip (one PNG per seed), npy or npz. Default: as the name of --output ends, else grid."
        ),
    ] = None,
    columns: Annotated[
        int | None, typer.Option(min=1, help="Columns of a grid. Default: about as many as rows.")
    ] = None,
    num_steps: Annotated[int | None, typer.Option("--num-steps", min=2, help="Steps of the sampler.")] = None,
    sigma_min: Annotated[float | None, typer.Option("--sigma-min", help="Last noise level before 0.")] = None,
    sigma_max: Annotated[float | None, typer.Option("--sigma-max", help="First noise level.")] = None,
    rho: Annotated[float | None, typer.Option("--rho", help="Larger values give more low noise levels.")] = None,
    guidance: Annotated[
        float | None, typer.Option("--guidance", metavar="W", help="Guidance weight; 1 is no guidance. Needs --guide.")
    ] = None,
    guide: Annotated[
        str | None,
        typer.Option(
            "--guide", metavar="RECONSTRUCTION | MODEL | FILE", help="Weights that guide, given as the target."
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
    device: Annotated[str, typer.Option(help="Device for a downloaded file: cpu, cuda, cuda:1, ….")] = "cpu",
    output: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="File or existing folder to write to. Default: the working directory."),
    ] = None,
    no_wait: NoWait = False,
    as_json: JsonFlag = False,
) -> None:
    """Draw pictures without scoring them, with a service or from a downloaded file."""
    chosen = format or _format_of(output)
    options = {
        "columns": columns,
        "num_steps": num_steps,
        "sigma_min": sigma_min,
        "sigma_max": sigma_max,
        "rho": rho,
        "guidance": guidance,
        "guidance_interval": None if guidance_interval is None else interval(guidance_interval),
        "churn": churn,
        "churn_min": churn_min,
        "churn_max": churn_max,
        "churn_noise": churn_noise,
    }
    request: dict[str, Any] = {"seeds": seeds, "class_label": class_label, "format": str(chosen)}
    request |= {field: value for field, value in options.items() if value is not None}
    if guide is not None and guidance in (None, 1):
        raise InvalidArgument("--guide does nothing without a weight; add --guidance, such as --guidance 2")
    view = screen(as_json)
    if at is not None and sigma_rel is None:
        raise InvalidArgument("--at is a training time of a run, which also needs --sigma-rel")
    if sigma_rel is None and _is_file(target):
        if guide is not None and not _is_file(guide):
            raise InvalidArgument(f"--guide {guide} is no downloaded file; a file is guided by another file")
        if no_wait:
            raise InvalidArgument("--no-wait goes with a service; a downloaded file is drawn here")
        _draw_here(view, Path(target), None if guide is None else Path(guide), request, device, output)
        return
    if guide is not None and _is_file(guide):
        raise InvalidArgument(f"--guide {guide} is a file; give the id of a reconstruction or the name of a model")
    if device != "cpu":
        raise InvalidArgument(f"--device {device} goes with a downloaded file; a service draws where its workers run")
    wanted = None if sigma_rel is None else (sigma_rel, at)
    _draw_there(context, view, target, wanted, guide, request, output, no_wait)


def _format_of(output: Path | None) -> Format:
    suffix = "" if output is None else output.suffix.lower()
    return next((format for format, ending in _SUFFIX.items() if ending == suffix), Format.grid)


def _is_file(target: str) -> bool:
    """Whether the target is a file or folder on this machine, and neither an id nor the name of a model."""
    path = Path(target)
    return target.endswith(".safetensors") or "/" in target or path.is_file() or (path / "config.json").is_file()


def _place(output: Path | None, name: str) -> Path:
    """The file to write. Raises InvalidArgument if its folder does not exist."""
    if output is None or output.is_dir():
        return (output or Path()) / name
    if not output.parent.is_dir():
        raise InvalidArgument(f"--output {output}: {output.parent} is no folder")
    return output


def _draw_there(
    context: typer.Context,
    view: Screen,
    target: str,
    wanted: tuple[float, int | None] | None,
    guide: str | None,
    request: dict[str, Any],
    output: Path | None,
    no_wait: bool,
) -> None:
    """`wanted`: EMA length and training time if the target is a run."""
    with client(context) as service:
        if wanted is not None:
            weights = service.reconstruct(target, wanted[0], wanted[1], wait=False)
            target = follow_reconstructions(service, view, weights)[0].id
        if guide is not None:
            request["guide_id"] = guide if guide.startswith("rec-") else service.models.get(guide).reconstruction_id
        found = service.sample(target, wait=False, **request)
        if no_wait:
            way_on = f"get the file with: phema download {found.id}"
            view.result(found.to_json(), lambda: view.say(f"{found.id} is {found.state}; {way_on}"))
            return
        path = _place(output, f"{found.id}{_SUFFIX[Format(request['format'])]}")
        if not found.done and found.job_id:
            follow_job(service, view, found.job_id, "drawing", "the same command picks it up again")
            found = service.samples.get(found.id)
        file = download(service, view, found.id, path)
    document = found.to_json() | {"file": str(file)}
    view.result(document, lambda: view.say(f"{file} holds {found.num_pictures:,} pictures, {size(found.size)}"))


def _draw_here(
    view: Screen, weights: Path, guide: Path | None, request: dict[str, Any], device: str, output: Path | None
) -> None:
    from pydantic import ValidationError

    from phema.sdk.drawing import draw_file
    from phema.shared.recipes.sample_request import SampleRequest

    for option, path in (("FILE", weights), ("--guide", guide)):
        if path is not None and not path.exists():
            raise InvalidArgument(f"{option} {path} does not exist")
    try:
        asked = SampleRequest.model_validate(request if guide is None else request | {"guide_id": str(guide)})
    except ValidationError as error:
        raise InvalidArgument(_sentence(error)) from None
    if (sentence := asked.without_effect()) is not None:
        raise InvalidArgument(sentence)
    path = _place(output, f"{weights.stem}-samples{_SUFFIX[Format(asked.format)]}")
    with _failures(), view.bar("drawing") as bar:
        draw_file(weights, path, asked, guide=guide, device=device, on_progress=_shown(bar))
    document = {"file": str(path), "size": path.stat().st_size, "request": asked.model_dump(mode="json")}
    view.result(document, lambda: view.say(f"{path} holds {len(asked.seeds):,} pictures, {size(path.stat().st_size)}"))


def _shown(bar: Any) -> Any:
    return lambda done, total: bar.update(done, total, f"{done:,} of {total:,} pictures")


def _sentence(error: Any) -> str:
    """The first validation error, by the option that caused it."""
    problem = error.errors(include_url=False)[0]
    option = "--" + str(problem["loc"][0]).replace("_", "-").replace("class-label", "class") if problem["loc"] else ""
    given = "" if problem["type"] == "value_error" else f" {problem['input']}"
    return f"{option}{given} {requirement(problem)}".strip().replace("needs guide_id", "needs --guide")


@contextmanager
def _failures() -> Iterator[None]:
    """Turn what drawing raises into errors of one sentence."""
    from phema.shared.datasets import DatasetError, HubUnreachable
    from phema.shared.drawing.drawing import NotFinite
    from phema.shared.edm2.sampling.heun import SamplerError
    from phema.shared.recipes.sample_request import UnknownClass

    try:
        with store_failures():
            yield
    except (SamplerError, UnknownClass, DatasetError) as error:
        raise InvalidArgument(str(error)) from error
    except (NotFinite, HubUnreachable) as error:
        raise PhemaError(str(error)) from error
    except OSError as error:
        raise PhemaError(f"{error.filename or 'a file'} cannot be used: {error.strerror or error}") from error
