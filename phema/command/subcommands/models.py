"""`phema promote` and `phema models`: reconstructions that are named and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phema.client.response_models import Model
from phema.command.options import JsonFlag, Limit, client, screen
from phema.errors import InvalidArgument
from phema.terminal.formats import size, when
from phema.terminal.live_progress import detachable
from phema.terminal.screen import Screen

app = typer.Typer(help="List, show and download promoted models.", no_args_is_help=True)
ModelName = Annotated[
    str, typer.Argument(metavar="MODEL", help="Name of a model (its latest version), name:version, or id.")
]


def promote(
    context: typer.Context,
    reconstruction: Annotated[str, typer.Argument(metavar="RECONSTRUCTION", help="Id of a finished reconstruction.")],
    name: Annotated[str, typer.Argument(help="Name of the model. Each promotion is its next version.")],
    description: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What the model is, in Markdown; the card begins with it.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Keep a reconstruction as the next version of a named model, with its figures and its lineage."""
    view = screen(as_json)
    with client(context) as service:
        made = service.promote(reconstruction, name, description=description)
    view.result(made.to_json(), lambda: view.say(f"{reconstruction} is {made.reference} ({made.id})"))


@app.command("list")
def list_models(
    context: typer.Context,
    name: Annotated[str | None, typer.Option(help="Only versions of the model with this name.")] = None,
    run: Annotated[str | None, typer.Option(metavar="RUN", help="Only models of this run.")] = None,
    limit: Limit = None,
    as_json: JsonFlag = False,
) -> None:
    """List the versions of models, newest first."""
    view = screen(as_json)
    with client(context) as service:
        found = service.models.list(name, run, limit)
    nothing = "no models yet; try: phema promote RECONSTRUCTION NAME"
    view.result([item.to_json() for item in found], lambda: _table(view, found) if found else view.say(nothing))


@app.command()
def show(
    context: typer.Context,
    model: ModelName,
    as_json: JsonFlag = False,
) -> None:
    """Print the card of a model: figures with their errors, lineage, how to load it."""
    view = screen(as_json)
    with client(context) as service:
        found, card = service.models.get(model), service.models.card(model)
    view.result(found.to_json(), lambda: view.say(card.rstrip("\n")))


@app.command()
def download(
    context: typer.Context,
    model: ModelName,
    path: Annotated[
        Path | None, typer.Argument(help="File or folder to write to. Default: named after the model and version.")
    ] = None,
    folder: Annotated[
        bool, typer.Option("--folder", help="Write a folder with weights, config.json and the card as README.md.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Download a model as one safetensors file, or as a folder. A download that stopped resumes."""
    view = screen(as_json)
    with (
        client(context) as service,
        detachable("download stopped; the same command resumes it"),
        view.bar(f"downloading {model}") as bar,
    ):

        def shown(done: int, total: int | None) -> None:
            bar.update(done, total, f"{size(done)} of {size(total)}")

        if folder:
            if path is not None and path.suffix == ".safetensors":
                raise InvalidArgument(f"{path} looks like a file; --folder writes a folder")
            written = service.models.download_folder(model, path, on_progress=shown)
        else:
            written = service.models.download(model, path, on_progress=shown)
    view.result({"model": model, "path": str(written)}, lambda: view.say(str(written)))


def _table(view: Screen, models: list[Model]) -> None:
    columns = ["MODEL", "RUN", "PROFILE", "IMAGES", "FIGURE", "SIZE", "CREATED", "ID"]
    rows = [
        [
            model.reference,
            model.run,
            model.label,
            f"{model.num_images:,}",
            _best(model),
            size(model.size),
            when(model.created_at),
            model.id,
        ]
        for model in models
    ]
    view.table(columns, rows, right=("IMAGES", "SIZE"))


def _best(model: Model) -> str:
    """The figure of the latest evaluation by which evaluations are ranked, with its standard error."""
    from phema.shared.model_records.card import in_registry_order, shown_figure

    if not model.evaluations:
        return "-"
    latest = model.evaluations[-1]
    found = in_registry_order({name: value for name, value in latest.figures.items() if value is not None})
    return next((f"{name} {shown_figure(v, (latest.errors or {}).get(name))}" for name, v in found.items()), "-")
