"""Fields of a run's configuration, as `--file` and `--set` give them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from phema.client.run_files import read_run_file
from phema.errors import InvalidArgument, Refused
from phema.shared.recipes.dotted_fields import dotted_fields

Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Replace a field, such as network.dropout=0.1; repeatable."),
]


def chosen_fields(file: Path | None, changes: Sequence[str] | None) -> dict[str, Any]:
    """The fields of the run file, nested, with those of `--set` replaced. Raises InvalidArgument."""
    fields = {} if file is None else read_run_file(file)
    for change in changes or ():
        _set(fields, change)
    return fields


@contextmanager
def naming_the_file(file: Path | None, changes: Sequence[str] | None) -> Iterator[None]:
    """Let the service's sentence about a field of the run file name the file."""
    try:
        yield
    except Refused as error:
        if file is None or not _is_about(error.problem, dotted_fields(read_run_file(file)), changes or ()):
            raise
        raise Refused(f"run file {file}: {error}", error.status, error.problem) from None


def _is_about(problem: Mapping[str, Any], fields: Mapping[str, Any], changes: Sequence[str]) -> bool:
    """Whether the problem is in a field of the file that no option has replaced."""
    set_here = {change.partition("=")[0] for change in changes}
    own = {name if name == "preset" else f"config.{name}" for name in fields.keys() - set_here}
    wrong = [str(entry.get("field")) for entry in problem.get("errors", [])]
    return any(name == field or name.startswith(f"{field}.") for field in wrong for name in own if field)


def _set(fields: dict[str, Any], change: str) -> None:
    """Put `a.b=VALUE` into the nested `fields`. VALUE is JSON; anything else is text."""
    field, equals, text = change.partition("=")
    if not equals or not all(field.split(".")):
        raise InvalidArgument(f"--set {change!r} must look like FIELD=VALUE, as in --set network.dropout=0.1")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    *parents, last = field.split(".")
    for parent in parents:
        fields = fields.setdefault(parent, {})
        if not isinstance(fields, dict):
            raise InvalidArgument(f"--set {change!r} goes into {parent}, which was given a plain value before")
    fields[last] = value
