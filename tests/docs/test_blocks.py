"""Every code block of the documentation runs in a test, or says why not; commands of blocks that do not run exist."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import typer
import typer.main
import yaml

from phema.command.main import app
from tests.docs.blocks import NOT_RUN, ROOT, Block, blocks

PAGES = [
    *("README.md", "CONTRIBUTING.md", "benchmarks/README.md", "deploy/README.md"),
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
]
DATA = {"json": json.loads, "toml": tomllib.loads, "yaml": yaml.safe_load}
PARSED = {*DATA, "bibtex", "text"}
"""Languages of blocks that hold data and need no mark."""
SHELL = {"&", "&&", "|", ">", ";"}
"""Words that end a command; only the first command of a line is looked at."""
VERBS = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.M))
ROOT_COMMAND: Any = typer.main.get_command(app)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_runs_or_says_why_not(page: str) -> None:
    """The marks are explained in tests/docs/blocks.py."""
    assert [f"{block.where}: {problem}" for block in blocks(page) if (problem := _problem(block))] == []


def _problem(block: Block) -> str | None:
    """What is wrong with the mark of a block."""
    if block.language in DATA and not block.mark:
        DATA[block.language](block.text)  # raises where it cannot be read
    if block.language in PARSED or block.mark == "run" or block.mark.startswith("run: "):
        return None
    if block.mark.startswith("run by "):
        test = ROOT / block.mark.removeprefix("run by ").split(": ")[0]
        named = test.is_file() and block.page.rpartition("/")[2] in test.read_text()
        return None if named else f"{test} does not run it: it does not name the page"
    if block.mark.startswith("test: "):
        return (
            None if _is_run(block.page, block.mark.removeprefix("test: ")) else "no test names the page and the block"
        )
    if block.mark.startswith("not run: "):
        reason = block.mark.removeprefix("not run: ")
        return None if reason in NOT_RUN else f"{reason!r} is no reason; allowed: {', '.join(NOT_RUN)}"
    return "it has no mark: <!-- run -->, <!-- run by TEST --> or <!-- not run: REASON -->"


def _is_run(page: str, name: str) -> bool:
    texts = (path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    return any(page.rpartition("/")[2] in text and name in text for text in texts)


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_blocks_that_are_not_run_exist(page: str) -> None:
    """`phema` with its options, make verbs, modules, programs and scripts; Python can be parsed."""
    problems = []
    for block in blocks(page):
        if block.language == "python":
            ast.parse(block.text)
        elif (
            block.language not in PARSED
            and not block.mark.startswith(("run", "test: "))
            and block.mark != "not run: output"
        ):
            problems += [f"{block.where}: {line}: {problem}" for line, problem in _wrong_commands(block)]
    assert problems == []


def _wrong_commands(block: Block) -> Iterator[tuple[str, str]]:
    for line in block.commands.replace("\\\n", " ").splitlines():
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue  # a line of a longer shell construct
        while words and re.match(r"^\w+=", words[0]):
            words = words[1:]
        end = next((place for place, word in enumerate(words) if word in SHELL), len(words))
        words = words[:end]
        if words and (problem := _command_problem(words)):
            yield line, problem


def _command_problem(words: list[str]) -> str | None:
    program, *arguments = words
    if program == "phema":
        return _phema_problem(arguments)
    if program == "make":
        verb = next((word for word in arguments if "=" not in word), "")
        return None if verb in VERBS else f"make has no verb {verb!r}"
    if program == "python" and arguments[:1] == ["-m"]:
        found = importlib.util.find_spec(arguments[1])
        return None if found else f"no module {arguments[1]}"
    if program == "python" and arguments[0].endswith(".py") and "/" in arguments[0]:
        return None if (ROOT / arguments[0]).is_file() else f"no file {arguments[0]}"
    if program.startswith("deploy/"):
        return None if (ROOT / program).is_file() else f"no file {program}"
    return None


def _phema_problem(arguments: list[str]) -> str | None:
    """What the command itself says about its arguments."""
    try:
        root = ROOT_COMMAND.make_context("phema", list(arguments))
        command, context = ROOT_COMMAND, root
        while hasattr(command, "commands"):
            _, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
            context = command.make_context(command.name, rest, parent=context)
    except typer.Exit:
        return None  # --version and --help
    except typer.TyperException as error:
        return str(error.format_message())
    return None
