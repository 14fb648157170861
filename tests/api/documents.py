"""docs/api.md and docs/openapi.json as text."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from pathlib import Path
from typing import Any

from phema.services.api.http.problems import all_problems

ROOT = Path(__file__).parents[2]
API_MD = ROOT / "docs" / "api.md"
OPENAPI_JSON = ROOT / "docs" / "openapi.json"
WHOLE = ("create_run",)
"""Exchanges whose configuration the page shows in full."""
BASE_URL = "http://127.0.0.1:8400"

_PROBLEMS = re.compile(r"<!-- problems -->\n.*?<!-- end -->", re.DOTALL)
_RECORDED = re.compile(r"<!-- recorded: (\S+) -->\n.*?<!-- end -->", re.DOTALL)


def openapi_text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def recorded_names(text: str) -> list[str]:
    """The exchanges that a page shows."""
    return _RECORDED.findall(text)


def api_page(text: str, document: dict[str, Any], exchanges: dict[str, dict[str, Any]]) -> str:
    """docs/api.md as it should be: its own prose, with everything that comes from the code and the recording."""
    return with_recorded(with_places(with_problems(text), document, exchanges), exchanges)


def with_problems(text: str) -> str:
    """The page with its table of problems written from their classes."""
    rows = [f"| `{cls.kind}` | {cls.status} | {inspect.cleandoc(cls.__doc__ or '')} |" for cls in all_problems()]
    table = "\n".join(["| type | status | meaning |", "| --- | --- | --- |", *rows])
    return _PROBLEMS.sub(lambda _: f"<!-- problems -->\n{table}\n<!-- end -->", text)


def with_places(text: str, document: dict[str, Any], exchanges: dict[str, dict[str, Any]]) -> str:
    """The page with a section for every operation of the OpenAPI document, and with a mark for every exchange.

    What is missing is added at the end: a section to the part of its tag (`## Tag`), a mark to its section. The marks
    of exchanges that are no longer recorded are removed. A new section begins with the operation's description.
    """
    blocks = re.split(r"^(?=#{2,3} )", text, flags=re.MULTILINE)
    for heading, operation in operations(document).items():
        if not any(block.startswith(f"### {heading}\n") for block in blocks):
            part = f"## {operation['tags'][0].capitalize()}\n"
            if not any(block.startswith(part) for block in blocks):
                blocks.append(f"{part}\n")
            start = next(index for index, block in enumerate(blocks) if block.startswith(part))
            after = (index for index in range(start + 1, len(blocks)) if not blocks[index].startswith("### "))
            blocks.insert(next(after, len(blocks)), f"### {heading}\n\n{operation.get('description', '')}\n\n")
    shown = set(recorded_names(text))
    headings = {operation["operationId"]: heading for heading, operation in operations(document).items()}
    for name in exchanges:
        if name not in shown:
            section = f"### {headings[name.partition('.')[0]]}\n"
            place = next(index for index, block in enumerate(blocks) if block.startswith(section))
            blocks[place] = f"{blocks[place].rstrip()}\n\n<!-- recorded: {name} -->\n<!-- end -->\n\n"
    page = "\n\n".join(block.strip("\n") for block in blocks) + "\n"
    return _RECORDED.sub(lambda match: match[0] if match[1] in exchanges else "", page)


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """`METHOD path` -> operation, of an OpenAPI document."""
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def with_recorded(text: str, exchanges: dict[str, dict[str, Any]]) -> str:
    """The page with each pair of marks filled with the exchange that it names."""
    return _RECORDED.sub(
        lambda match: f"<!-- recorded: {match[1]} -->\n{_shown(match[1], exchanges[match[1]])}\n<!-- end -->", text
    )


def _shown(name: str, exchange: dict[str, Any]) -> str:
    lines = ["```bash", _curl(exchange), "```", ""]
    if "response_headers" in exchange:
        headers = "\n".join(f"{name}: {value}" for name, value in exchange["response_headers"].items())
        return "\n".join([*lines, f"Status {exchange['status']}, with the headers", "", "```", headers, "```"])
    answer = exchange["response"] if name in WHOLE else _without_configs(exchange["response"])
    is_text = isinstance(answer, str)
    body = answer.rstrip("\n") if is_text else json.dumps(answer, indent=2, ensure_ascii=False)
    fence = "````" if "```" in body else "```"  # the card of a model has code in it
    return "\n".join([*lines, f"Status {exchange['status']}:", "", fence if is_text else f"{fence}json", body, fence])


def _without_configs(answer: Any) -> Any:
    """A run's configuration has a hundred lines: one example on the page shows it in full."""
    if isinstance(answer, dict):
        return {
            name: {"…": "…"} if name == "config" and isinstance(value, dict) else _without_configs(value)
            for name, value in answer.items()
        }
    return [_without_configs(item) for item in answer] if isinstance(answer, list) else answer


def _curl(exchange: dict[str, Any]) -> str:
    parts = ["curl -sS"]
    headers = dict(exchange.get("headers", {}))
    if "response_headers" in exchange:
        parts = ["curl -sS -D - -o part"]
    if "request" in exchange:
        headers["Content-Type"] = "application/json"
    elif exchange["method"] == "POST":
        parts.append("-X POST")
    parts.append(shlex.quote(BASE_URL + exchange["path"]))
    parts += [f"-H {shlex.quote(f'{name}: {value}')}" for name, value in headers.items()]
    if "request" in exchange:
        parts.append(f"-d {shlex.quote(json.dumps(exchange['request']))}")
    line = " ".join(parts)
    return line if len(line) <= 118 else " \\\n  ".join([" ".join(parts[:2]), *parts[2:]])
