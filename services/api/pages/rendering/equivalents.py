"""The same as a page shows or does, by curl, in Python and by the command."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Method = Literal["POST", "DELETE"]


@dataclass(frozen=True)
class Equivalent:
    """One request in three languages. `title` says what it gives."""

    title: str
    curl: str
    python: str
    command: str | None


def equivalent(
    title: str,
    path: str,
    python: str,
    command: Sequence[str] | None,
    *,
    body: Mapping[str, Any] | None = None,
    method: Method | None = None,
    token: bool,
    origin: str,
) -> Equivalent:
    """Args: `path` with its query; `python`, an expression of `client`; `command`, the words after `phema`.

    `method`: of a request without a body; by default GET.
    """
    words = ["curl", "-s", *(["-X", method] if method else []), f"{origin}{path}"]
    if body is not None:
        words += ["-H", "Content-Type: application/json", "-d", json.dumps(dict(body), ensure_ascii=False)]
    curl = shlex.join(words)
    if token:
        curl += ' -H "Authorization: Bearer $PHEMA_API_TOKEN"'
    said = None if command is None else shlex.join(["phema", *command])
    return Equivalent(title, curl, python, said)
