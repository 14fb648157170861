"""`phema store`: verify the object store."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from phema.command.options import JsonFlag, screen, server_packages
from phema.command.stored_runs import stored_run, verify_stored
from phema.terminal.screen import Screen

if TYPE_CHECKING:
    from phema.sdk.run_folders.stored_run import StoredRun

app = typer.Typer(help="Verify the object store.", no_args_is_help=True)


@app.callback()  # with a callback, the only command keeps its name
def _group() -> None:
    """Verify the object store."""


@app.command()
def verify(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]",
            help="Name or id of a run, or a folder or s3:// URL of snapshots. Default: every run of the service.",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Read the stored objects and compare their bytes with what was written. Exit code 1 if an object is damaged."""
    if run is not None and (stored := stored_run(run)) is not None:
        _verify_without_service(screen(as_json), stored)
        return
    from phema.shared.settings import Settings
    from phema.shared.wiring import catalog_from, store_from
    from phema.terminal.formats import size

    view, settings, title = screen(as_json), Settings(), f"verifying {run or 'all runs'}"
    with server_packages(), closing(catalog_from(settings)) as catalog, view.bar(title) as bar:
        from phema.administration.store_verification import verify_store

        store = store_from(settings)
        store.check()
        found = verify_store(
            catalog, store, run, lambda done, total: bar.update(done, total, f"{size(done)} of {size(total)}")
        )
    for damaged in found.damaged:
        view.note(f"damaged {damaged.kind} of {damaged.run}: {damaged.problem}")
    counts = f"{found.objects} objects with {size(found.bytes)} were read; damaged or missing: {len(found.damaged)}"
    view.result(asdict(found), lambda: view.say(counts))
    if found.damaged:
        raise typer.Exit(1)


def _verify_without_service(view: Screen, stored: StoredRun) -> None:
    """`verify` for a folder or bucket: its names and its own records say what was written."""
    from phema.terminal.formats import size

    found = verify_stored(view, stored)
    for damaged in found.damaged:
        view.note(f"damaged: {damaged.problem}")
    document = {
        "objects": found.files,
        "bytes": found.bytes,
        "damaged": [{"run": stored.name, **asdict(damaged)} for damaged in found.damaged],
    }
    counts = f"{found.files} objects with {size(found.bytes)} were read; damaged or missing: {len(found.damaged)}"
    view.result(document, lambda: view.say(counts))
    if found.damaged:
        raise typer.Exit(1)
