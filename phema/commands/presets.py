"""`phema presets`: the recipes by name."""

from __future__ import annotations

from typing import Annotated

import typer

from phema.commands.options import JsonFlag, screen
from phema.errors import InvalidArgument
from shared.recipes.presets import PRESETS, UnknownPreset, resolve

app = typer.Typer(help="The recipes a run can start from.", no_args_is_help=True)


@app.command("list")
def list_presets(as_json: JsonFlag = False) -> None:
    """List the presets."""
    view = screen(as_json)
    configs = {name: resolve(name) for name in PRESETS}
    rows = [
        (
            name,
            str(c.network.img_resolution),
            str(c.network.img_channels),
            str(c.network.model_channels),
            f"{c.total_images:,}",
        )
        for name, c in configs.items()
    ]
    columns = ("NAME", "RESOLUTION", "CHANNELS", "WIDTH", "IMAGES")
    view.result(
        {name: config.model_dump(mode="json") for name, config in configs.items()},
        lambda: view.table(columns, rows, right=columns[1:]),
    )


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="PRESET", help="Name of a preset.")], as_json: JsonFlag = False
) -> None:
    """Show every field of a preset."""
    view = screen(as_json)
    try:
        config = resolve(name).model_dump(mode="json")
    except UnknownPreset as error:
        raise InvalidArgument(str(error)) from None
    network = config.pop("network")
    rows = [*config.items(), *((f"network.{key}", value) for key, value in network.items())]
    view.result(config | {"network": network}, lambda: view.table((name, ""), [(k, str(v)) for k, v in rows]))
