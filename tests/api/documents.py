"""docs/api.md and docs/openapi.json as text."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
API_MD = ROOT / "docs" / "api.md"
OPENAPI_JSON = ROOT / "docs" / "openapi.json"
WHOLE = ("create_run",)
"""Exchanges whose configuration the page shows in full."""
BASE_URL = "http://127.0.0.1:8400"

_RECORDED = re.compile(r"<!-- recorded: (\S+) -->\n.*?<!-- end -->", re.DOTALL)


def openapi_text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def recorded_names(text: str) -> list[str]:
    """The exchanges that a page shows."""
    return _RECORDED.findall(text)


def with_recorded(text: str, exchanges: dict[str, dict[str, Any]]) -> str:
    """The page with what stands between its marks replaced by the exchanges of those names."""
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
    return "\n".join([*lines, f"Status {exchange['status']}:", "", "```" if is_text else "```json", body, "```"])


def _without_configs(answer: Any) -> Any:
    """Once is enough for a hundred lines that are the same everywhere."""
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
