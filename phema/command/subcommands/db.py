"""`phema db`: upgrade or rebuild the catalog."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict

import typer

from phema.command.options import JsonFlag, screen, server_packages

app = typer.Typer(help="Upgrade or rebuild the catalog.", no_args_is_help=True)


@app.command()
def upgrade(as_json: JsonFlag = False) -> None:
    """Upgrade the schema of the catalog to this version.

    The catalog is PHEMA_DATABASE_URL. Default: SQLite in the state folder.
    """
    from phema.shared.settings import Settings
    from phema.shared.wiring import catalog_from

    view = screen(as_json)
    with server_packages(), closing(catalog_from(Settings())) as catalog:
        catalog.upgrade()
    view.result({"upgraded": True}, lambda: view.say("the catalog is up to date"))


@app.command()
def rebuild(as_json: JsonFlag = False) -> None:
    """Add to the catalog what it lacks, from the objects in the store. Existing rows stay. Safe to repeat."""
    from phema.administration.rebuild import rebuild as from_store
    from phema.shared.settings import Settings
    from phema.shared.wiring import catalog_from, store_from

    view, settings = screen(as_json), Settings()
    with server_packages(), closing(catalog_from(settings)) as catalog, view.bar("reading the store") as bar:
        catalog.upgrade()
        store = store_from(settings)
        store.check()
        found = from_store(
            catalog, store, lambda done, total: bar.update(done, total, f"{done:,} of {total:,} objects")
        )
    for sentence in found.skipped.values():
        view.note(f"skipped: {sentence}")
    counts = f"{found.runs} runs, {found.snapshots} snapshots, {found.checkpoints} checkpoints, "
    counts += f"{found.reconstructions} reconstructions, {found.bases} bases, {found.models} models"
    view.result(asdict(found), lambda: view.say(f"found {counts} that the catalog did not know"))
    if found.skipped:
        raise typer.Exit(1)
