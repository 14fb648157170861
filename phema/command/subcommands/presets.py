"""`phema presets`: the presets and their configurations."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from phema.command.options import JsonFlag, screen
from phema.errors import InvalidArgument
from phema.shared.recipes.presets import PRESETS, Preset, UnknownPreset, resolve

app = typer.Typer(help="List and show presets: complete configurations for runs.")


@app.callback(invoke_without_command=True)
def presets(context: typer.Context, as_json: JsonFlag = False) -> None:
    """List and show presets: complete configurations for runs. Without a command, list them."""
    if context.invoked_subcommand is None:
        list_presets(as_json)
    elif as_json:
        raise InvalidArgument(f"--json goes after {context.invoked_subcommand}")


@app.command("list")
def list_presets(as_json: JsonFlag = False) -> None:
    """List the presets with their size, cost and published FID."""
    view = screen(as_json)
    documents = [_document(preset) for preset in PRESETS.values()]
    columns = ("NAME", "CONFIG", "PARAMETERS", "GFLOPS", "FID", "SIGMA_REL")
    rows = [
        (
            d["name"],
            d["config"],
            f"{d['num_parameters']:,}",
            f"{d['gflops']:.1f}" if d["gflops"] >= 1 else f"{d['gflops']:.4f}",
            "" if d["fid"] is None else f"{d['fid']:.2f}",
            "" if d["fid"] is None else f"{d['fid_sigma_rel']:.3f}",
        )
        for d in documents
    ]
    view.result(documents, lambda: view.table(columns, rows, right=columns[2:]))


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="PRESET", help="Name of a preset.")], as_json: JsonFlag = False
) -> None:
    """Show a preset: size, cost, expected results, and every field of its configuration."""
    view = screen(as_json)
    try:
        config = resolve(name).model_dump(mode="json")
    except UnknownPreset as error:
        raise InvalidArgument(str(error)) from None
    rows = [
        (f"{field}.{key}", str(inner))
        for field, value in config.items()
        for key, inner in (value.items() if isinstance(value, dict) else [("", value)])
    ]

    def human() -> None:
        view.say(PRESETS[name].description + "\n")
        view.table((name, ""), [(path.removesuffix("."), text) for path, text in rows])

    view.result(config, human)


def _document(preset: Preset) -> dict[str, Any]:
    return {"name": preset.name, "config": preset.network.config, "summary": preset.summary, **preset.figures}
