"""`phema import`: import snapshots of other programs as a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from phema.command.options import JsonFlag, client, screen, store_failures
from phema.terminal.screen import Screen


def import_(
    context: typer.Context,
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Folder of network pickles in EDM2's published format, or of state dicts."),
    ],
    name: Annotated[
        str, typer.Option("--name", help="Name of the run; or a folder such as runs/mine, without a service.")
    ],
    mapping: Annotated[
        Path | None,
        typer.Option("--mapping", metavar="FILE", help="JSON list of objects with file, num_images and profile."),
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(
            "--pattern",
            metavar="REGEX",
            help="Regular expression for the file names, with groups named num_images, sigma_rel and others.",
        ),
    ] = None,
    images_per_step: Annotated[
        int | None,
        typer.Option(
            "--images-per-step",
            min=1,
            help="Images in one step, for a pattern with a group named step. Without a pattern: import the folders of "
            "diffusers' EMAModel.",
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option("--profile", metavar="JSON", help="Profile of all files, if the pattern has no group for it."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            help="Key of the state dict in a checkpoint: model, state_dict, ema, …; or optimizer.state.*.ema_params.",
        ),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            "--network", metavar="PRESET|FILE", help="Network of the state dicts: that of a preset, or a JSON file."
        ),
    ] = None,
    buffers: Annotated[
        list[str] | None,
        typer.Option(
            "--buffers", metavar="NAMES", help="Tensors that are not averaged, as a shell pattern; repeatable."
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            metavar="SOURCE",
            help="Dataset that evaluations compare with: digits, a folder, a zip file or s3://.",
        ),
    ] = None,
    held_out: Annotated[
        int | None,
        typer.Option(
            "--held-out", min=0, help="Number of pictures of the dataset that training did not see. Default: 0."
        ),
    ] = None,
    vae: Annotated[
        str | None,
        typer.Option("--vae", help="AutoencoderKL that decodes the latents: its folder, or its id on the hub."),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only print the time and profile of each file.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Import snapshots of other programs as a run, whose EMA length can then be chosen."""
    from phema.sdk.importing import choose_dataset, import_into, import_source, open_source
    from phema.shared.snapshots.foreign.file_names import as_listed
    from phema.shared.snapshots.stores.locations import is_location

    view = screen(as_json)
    how: dict[str, Any] = {
        "mapping": mapping,
        "pattern": pattern,
        "images_per_step": images_per_step,
        "profile": None if profile is None else _profile(profile),
        "key": key,
        "network": network,
        "buffers": buffers or (),
    }
    with view.bar("checking") as bar:
        source = open_source(folder, **how, on_progress=bar.update)
    chosen = choose_dataset(source.network, dataset, held_out, vae)
    if plan:
        view.result(json.loads(as_listed(source.snapshots, folder)), lambda: _planned(view, source))
        _note_skipped(view, source)
        return
    with store_failures(), view.bar("importing") as bar:
        if is_location(name):
            done = import_into(source, name, chosen, on_progress=bar.update)
        else:
            with client(context) as service:
                done = import_source(source, name, chosen, service, on_progress=bar.update)
    document = {
        "run": done.run.to_json(),
        "written": done.written,
        "known": done.known,
        "skipped": [path.name for path in done.skipped],
    }
    view.result(document, lambda: _said(view, name, done.written, done.known))
    _note_skipped(view, source)


def _profile(text: str) -> dict[str, Any]:
    from phema.errors import InvalidArgument

    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InvalidArgument(
            f'--profile {text!r} must be a JSON object such as {{"kind": "power", "sigma_rel": 0.05}}'
        )
    return found


def _planned(view: Screen, source: Any) -> None:
    rows = [(s.path.name, f"{s.num_images:,}", s.profile.kind, s.profile.label) for s in source.snapshots]
    view.table(("file", "images", "profile", ""), rows, right=("images",))


def _note_skipped(view: Screen, source: Any) -> None:
    for path in source.skipped:
        view.note(f"skipped {path.name}: at 0 images it holds the weights before training")


def _said(view: Screen, name: str, written: int, known: int) -> None:
    before = f", {known:,} were there" if known else ""
    view.say(f"{name}: {written:,} snapshots written{before}")
    view.note(f"choose an EMA length: phema reconstruct {name} --sigma-rel 0.05,0.10,...,0.25")
