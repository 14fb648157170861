"""`phema db`: the catalog's schema."""

from __future__ import annotations

from contextlib import closing

import typer

from phema.commands.options import JsonFlag, plainly, screen

app = typer.Typer(help="Look after the catalog.", no_args_is_help=True)


@app.command()
def upgrade(as_json: JsonFlag = False) -> None:
    """Bring the catalog named by PHEMA_DATABASE_URL (default SQLite in the state folder) to this version's schema."""
    from shared.settings import Settings
    from shared.wiring import catalog_from

    view = screen(as_json)
    with plainly(), closing(catalog_from(Settings())) as catalog:
        catalog.upgrade()
    view.result({"upgraded": True}, lambda: view.say("the catalog is up to date"))
