"""HTML fragments for notebooks. Everything that is shown is escaped."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

CELL = "text-align:left;vertical-align:top;white-space:pre-wrap;overflow-wrap:anywhere"
NUMBER = "text-align:right;vertical-align:top;white-space:nowrap"
MOST_ROWS = 200
"""Rows of a table that a notebook shows; the text below it names the rest."""


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = ()) -> str:
    """A table; the columns named in `right` are aligned to the right."""
    styles = [NUMBER if name in right else CELL for name in columns]
    head = "".join(f'<th style="{style}">{escape(name)}</th>' for name, style in zip(columns, styles, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f'<td style="{style}">{escape(_text(cell))}</td>' for cell, style in zip(row, styles, strict=True))
        + "</tr>"
        for row in rows[:MOST_ROWS]
    )
    more = f"<p>and {len(rows) - MOST_ROWS:,} more</p>" if len(rows) > MOST_ROWS else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def facts(entries: Iterable[tuple[str, object]]) -> str:
    """A table of names and values, without the entries whose value is None or empty."""
    body = "".join(
        f'<tr><th style="{CELL}">{escape(name)}</th><td style="{CELL}">{escape(_text(value))}</td></tr>'
        for name, value in entries
        if value is not None and value != ""
    )
    return f"<table><tbody>{body}</tbody></table>"


def heading(kind: str, text: str) -> str:
    return f"<p><strong>{escape(kind)}</strong> {escape(text)}</p>"


def paragraph(text: str | None) -> str:
    return f"<p>{escape(text)}</p>" if text else ""


def picture(content: bytes | None, description: str, *, pixelated: bool = False) -> str:
    """A PNG or SVG picture within the page; an empty text without content."""
    if not content:
        return ""
    kind = "png" if content.startswith(b"\x89PNG") else "svg+xml"
    sharp = ";image-rendering:pixelated" if pixelated else ""
    data = base64.b64encode(content).decode()
    return (
        f'<img alt="{escape(description, quote=True)}" style="max-width:100%{sharp}" '
        f'src="data:image/{kind};base64,{data}">'
    )


def _text(value: object) -> str:
    return "" if value is None else str(value)
