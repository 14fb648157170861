"""What pages offer to type instead works: the requests are answered, the commands are parsed, the methods exist."""

from __future__ import annotations

import ast
import re
import shlex
from html import unescape

import httpx
import pytest
import typer.main

from phema.client.client import Client
from phema.command.main import app
from tests.pages import studies
from tests.pages.conftest import Seeded

_BLOCK = re.compile(r"<dt>(curl|Python|Command)</dt><dd><pre[^>]*><code>(.*?)</code></pre></dd>", re.DOTALL)


def offered(seeded: Seeded, path: str) -> dict[str, list[str]]:
    """By language: everything that a page offers."""
    answer = httpx.get(f"{seeded.url}/{path}", headers={"Accept": "text/html"}, timeout=60)
    assert answer.status_code == 200, path
    found: dict[str, list[str]] = {}
    for language, text in _BLOCK.findall(answer.text):
        found.setdefault(language, []).append(unescape(text))
    return found


@pytest.fixture(scope="module")
def texts(seeded: Seeded) -> dict[str, list[str]]:
    sweep, search, model = studies.add_sweep(seeded), studies.add_search(seeded), studies.add_model(seeded)
    with seeded.catalog.transaction(read_only=True) as tx:
        evaluation = tx.evaluations.finished(tx.runs.get(studies.RUN).id, 1)[0].id
    job = seeded.runs["digits-wide"].job_id
    run = studies.RUN
    paths = ["runs", "runs?state=failed", "runs/new", f"runs/{run}", f"runs/{run}/explorer", "runs/my-own-loop"]
    paths += [f"runs/{run}/deletion"]
    paths += [
        f"compare?run={run}&run=digits-recipe",
        "evaluations",
        f"evaluations?run={run}",
        f"evaluations/{evaluation}",
    ]
    paths += ["studies", f"studies?run={run}", f"sweeps/{sweep}", f"searches/{search}", "models", f"models/{model}"]
    paths += [
        "jobs",
        "jobs?kind=train&state=running",
        f"jobs/{job}",
        "system",
        f"system/retention?run={run}&policy=latest&keep=4",
    ]
    together: dict[str, list[str]] = {}
    for path in paths:
        found = offered(seeded, path)
        assert found.keys() >= {"curl", "Python"}, path
        for language, more in found.items():
            together.setdefault(language, []).extend(more)
    return together


def test_requests_that_read_are_answered(seeded: Seeded, texts: dict[str, list[str]]) -> None:
    for text in texts["curl"]:
        words = shlex.split(text)
        assert words[:2] == ["curl", "-s"]
        if words[2] == "-X":
            assert words[3] in ("POST", "DELETE"), text
            assert words[4].startswith(f"{seeded.url}/v1/"), text
            continue
        assert words[2].startswith(f"{seeded.url}/v1/"), text
        if "-d" not in words and not words[2].endswith("/download"):
            assert httpx.get(words[2], timeout=60).status_code == 200, text


def test_methods_exist(texts: dict[str, list[str]]) -> None:
    client = Client("http://127.0.0.1:1")
    for text in texts["Python"]:
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.Attribute):
                continue
            names = ast.unparse(node).split(".")
            if names[0] == "client":
                found: object = client
                for name in names[1:]:
                    assert hasattr(found, name), text
                    found = getattr(found, name)
                    if callable(found):
                        break
    client.close()


def test_commands_are_parsed(texts: dict[str, list[str]]) -> None:
    assert len(texts["Command"]) > 10
    for text in texts["Command"]:
        name, *words = shlex.split(text)
        assert name == "phema"
        context = typer.main.get_command(app).make_context("phema", words)
        while hasattr(context.command, "resolve_command"):
            left = [*context._protected_args, *context.args]
            name_, sub, arguments = context.command.resolve_command(context, left)
            assert sub is not None, text
            context = sub.make_context(name_, arguments, parent=context)
