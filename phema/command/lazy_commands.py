"""Commands whose modules are imported when the command runs, or when help lists it."""

from __future__ import annotations

from collections import UserDict
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer.core
import typer.main


@dataclass(frozen=True)
class CommandSource:
    """A command in a module below `phema.command.subcommands`: a function, or a `typer.Typer` with its own commands."""

    module: str
    attribute: str

    def load(self, name: str) -> Any:
        """Import the module and return its command under this name."""
        found = getattr(import_module(f"phema.command.subcommands.{self.module}"), self.attribute)
        app = typer.Typer(add_completion=False)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name)
        else:
            app.command(name)(found)
        return typer.main.get_group(app).commands[name]


class LazyCommands(UserDict[str, Any]):
    """Commands by name, in the order of the help page. A CommandSource is replaced by its command on first access."""

    def __getitem__(self, name: str) -> Any:
        found = self.data[name]
        if isinstance(found, CommandSource):
            self.data[name] = found = found.load(name)
        return found


COMMANDS = {
    "up": CommandSource("service", "up"),
    "down": CommandSource("service", "down"),
    "doctor": CommandSource("doctor", "doctor"),
    "prepare": CommandSource("prepare", "prepare"),
    "runs": CommandSource("runs", "app"),
    "import": CommandSource("import_", "import_"),
    "reconstruct": CommandSource("reconstruct", "reconstruct"),
    "reconstructions": CommandSource("reconstruct", "reconstructions"),
    "compact": CommandSource("storage", "compact"),
    "bases": CommandSource("storage", "bases"),
    "retain": CommandSource("storage", "retain"),
    "pin": CommandSource("storage", "pin"),
    "evaluate": CommandSource("evaluate", "evaluate"),
    "evaluations": CommandSource("evaluate", "evaluations"),
    "score": CommandSource("score", "score"),
    "sweep": CommandSource("sweep", "sweep"),
    "sweeps": CommandSource("sweep", "sweeps"),
    "sample": CommandSource("sample", "sample"),
    "promote": CommandSource("models", "promote"),
    "models": CommandSource("models", "app"),
    "analyze": CommandSource("analyze", "app"),
    "report": CommandSource("report", "report"),
    "search": CommandSource("search", "search"),
    "searches": CommandSource("search", "searches"),
    "jobs": CommandSource("jobs", "app"),
    "download": CommandSource("download", "download"),
    "presets": CommandSource("presets", "app"),
    "dataset": CommandSource("dataset", "app"),
    "db": CommandSource("db", "app"),
    "store": CommandSource("store", "app"),
    "demo": CommandSource("demo", "demo"),
    "reproduce": CommandSource("reproduce", "app"),
}


class LazyGroup(typer.core.TyperGroup):
    """The group of all commands."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = LazyCommands(COMMANDS)
