"""docs/cli.md and docs/python.md say what there is, all of it and nothing else."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import phema
from phema import errors
from phema.command.main import app
from phema.errors import PhemaError
from phema.integrations.tracked_averages import AveragesOptions
from phema.shared.recipes.evaluation_recipe import EvaluationRecipe
from phema.shared.recipes.sample_request import SampleRequest

DOCS = Path(__file__).parents[2] / "docs"
CLI = (DOCS / "cli.md").read_text()
PYTHON = (DOCS / "python.md").read_text()
ROOT: Any = typer.main.get_command(app)


def leaves(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if hasattr(command, "commands"):
        for name, child in command.commands.items():
            yield from leaves(child, (*path, name))
    else:
        yield " ".join(path), command


COMMANDS = dict(leaves(ROOT, ("phema",)))
SECTIONS = dict(re.findall(r"^### `(phema [^`]+)`\n(.*?)(?=^##|\Z)", CLI, re.MULTILINE | re.DOTALL))


def test_every_command_has_its_section_and_no_other() -> None:
    assert list(SECTIONS) != []
    assert set(SECTIONS) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_listed_under_its_command(name: str) -> None:
    options = {option for parameter in COMMANDS[name].params for option in parameter.opts if option.startswith("--")}
    listed = {option for line in re.findall(r"^- (`--.*)", SECTIONS[name], re.MULTILINE) for option in options_of(line)}
    assert listed == options - {"--help"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_explains_itself(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    assert [parameter.name for parameter in command.params if not getattr(parameter, "help", None)] == []


def options_of(line: str) -> list[str]:
    """Options at the head of a list item: `--a`, `--b VALUE`: …"""
    return re.findall(r"`(--[a-z-]+)", line.partition(": ")[0])


def test_global_options_are_in_the_table() -> None:
    table = set(re.findall(r"^\| `(--[a-z-]+)`", CLI, re.MULTILINE))
    assert table == {option for parameter in ROOT.params for option in parameter.opts} | {"--help"}


def test_public_names_are_listed_and_there() -> None:
    table = re.findall(r"^\| `phema\.(\w+)` \|", PYTHON, re.MULTILINE)
    assert table == phema.__all__
    assert all(hasattr(phema, name) for name in phema.__all__)
    assert set(phema.__all__) <= set(dir(phema))
    with pytest.raises(AttributeError, match="module 'phema' has no attribute 'lode'"):
        phema.lode  # noqa: B018


def test_every_method_of_the_client_is_listed_and_no_other() -> None:
    """The first column of the table of calls: `client.runs.list(state)`, `.get(run)` names two methods of a group."""
    table = PYTHON.partition("| Call | Result |")[2].partition("\n\n")[0]
    listed = set()
    for row in table.splitlines()[2:]:
        group = ""
        for call in re.findall(r"`([^`]*)`", row.split(" | ")[0]):
            found = re.match(r"(?:client((?:\.\w+)*))?\.(\w+)\(", call)
            assert found is not None, call
            group = found[1] if found[1] is not None else group
            listed.add(f"{group}.{found[2]}")
    client = phema.Client("http://127.0.0.1:9")
    groups = {f".{name}": value for name, value in vars(client).items() if name not in ("url", "_transport")}
    assert listed == {
        f"{group}.{name}"
        for group, thing in {"": client, **groups}.items()
        for name, method in inspect.getmembers(type(thing), inspect.isfunction)
        if not name.startswith("_") and method.__doc__
    }


def test_every_field_of_a_recipe_is_in_its_table_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", (DOCS / "evaluations.md").read_text(), re.MULTILINE)
    defaults = EvaluationRecipe().model_dump(mode="json")
    assert rows == [(name, json.dumps(value, separators=(",", ":"))) for name, value in defaults.items()]


def test_every_field_of_a_sample_request_is_in_its_table_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", (DOCS / "samples.md").read_text(), re.MULTILINE)
    defaults = SampleRequest().model_dump(mode="json")
    assert rows == [(name, json.dumps(value, separators=(",", ":"))) for name, value in defaults.items()]


def test_every_argument_of_sample_is_in_its_table_with_its_default() -> None:
    table = re.findall(r"^\| (`.*`) \| (`.*`) \| ", PYTHON.partition("Argument of `phema.sample`")[2], re.MULTILINE)
    listed = {}
    for names, defaults in table:
        listed |= dict(zip(re.findall(r"`(.*?)`", names), re.findall(r"`(.*?)`", defaults), strict=True))
    parameters = dict(list(inspect.signature(phema.sample).parameters.items())[1:])
    assert listed == {name: repr(parameter.default).replace("'", '"') for name, parameter in parameters.items()}


def test_every_option_of_the_integrations_is_in_their_table() -> None:
    table = (DOCS / "integrations.md").read_text().partition("| Option |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines()[2:]]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(AveragesOptions.__annotations__)


def test_every_integration_has_its_section() -> None:
    modules = {path.stem for path in (DOCS.parent / "phema" / "integrations").glob("*.py")}
    libraries = modules - {"__init__", "run_summary", "tracked_averages"}
    rows = re.findall(r"^\| \[[^]]+\]\(#([^)]+)\) \| `(\w+)` \|", (DOCS / "integrations.md").read_text(), re.MULTILINE)
    assert {module for _, module in rows} == libraries


def test_the_error_tree_is_drawn_in_full() -> None:
    drawn = re.findall(r"[├└]── (\w+)", errors.__doc__ or "")
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, PhemaError)]
    assert set(drawn) == {cls.__name__ for cls in classes} - {"PhemaError"}
