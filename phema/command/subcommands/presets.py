"""`phema presets`: the presets and their configurations."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from phema.client.run_configurations import preset, without_nulls_of_preset
from phema.client.run_files import format_run_file
from phema.command.options import JsonFlag, screen
from phema.command.run_fields import Changes, chosen_fields
from phema.errors import InvalidArgument
from phema.shared.recipes.dotted_fields import dotted_fields
from phema.shared.recipes.presets import PRESETS, Preset
from phema.shared.recipes.sampling_presets import SAMPLING_PRESETS, PublishedGuide


class Format(StrEnum):
    yaml = "yaml"
    toml = "toml"
    json = "json"


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
    documents = [_document(known) for known in PRESETS.values()]
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
    name: Annotated[str, typer.Argument(metavar="PRESET", help="Name of a preset.")],
    changes: Changes = None,
    format: Annotated[
        Format | None, typer.Option(help="Print only a run file in this format, for `phema runs create --file`.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show a preset: size, cost, expected results, and every field of its configuration."""
    view = screen(as_json)
    config = preset(name, **chosen_fields(None, changes)).model_dump(mode="json")
    if format is not None:
        if as_json:
            raise InvalidArgument("--json and --format both name the output; give one of them")
        fields = without_nulls_of_preset(config) if format is Format.toml else config
        view.say(format_run_file(fields, format.value).rstrip("\n"))
        return

    def human() -> None:
        if not changes:
            view.say(PRESETS[name].description + "\n")
        view.table((name, ""), [(path, str(value)) for path, value in dotted_fields(config).items()])

    view.result(config, human)


@app.command()
def sampling(
    name: Annotated[
        str | None, typer.Argument(metavar="[PRESET]", help="Only figures of networks trained with this preset.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """List the published figures, and which EMA length, guide and guidance gave each: `phema evaluate --preset`."""
    view = screen(as_json)
    if name is not None:
        preset(name)  # refuses an unknown name
    found = [entry for entry in SAMPLING_PRESETS.values() if name in (None, entry.preset)]
    columns = ("NAME", "FIGURE", "VALUE", "SIGMA_REL", "GUIDANCE", "INTERVAL", "GUIDE", "SOURCE")
    rows = [
        (
            entry.name,
            entry.figure,
            f"{entry.value:.2f}",
            f"{entry.sigma_rel:.3f}",
            "" if entry.guide is None else f"{entry.guidance:g}",
            "" if entry.interval is None else f"({entry.interval[0]:g}, {entry.interval[1]:g}]",
            "" if entry.guide is None else _guide(entry.guide),
            entry.source,
        )
        for entry in found
    ]
    view.result(
        [entry.document() for entry in found],
        lambda: (
            view.table(columns, rows, right=("VALUE", "SIGMA_REL", "GUIDANCE"))
            if rows
            else view.say(f"no figure of {name} was published")
        ),
    )


def _guide(guide: PublishedGuide) -> str:
    at = "" if guide.num_images is None else f" at {guide.num_images:,}"
    return f"{guide.preset}{at}, {guide.sigma_rel:.3f}"


def _document(known: Preset) -> dict[str, Any]:
    return {"name": known.name, "config": known.network.config, "summary": known.summary, **known.figures}
