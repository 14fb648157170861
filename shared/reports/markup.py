"""Pieces of HTML: pictures for light and dark pages, tables, lists, numbers in words."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from html import escape

from phema.shared.pictures.theme import DARK, LIGHT, Format, Theme

SPACE = "&nbsp;"


def drawn(draw: Callable[[Theme, Format], bytes], name: str, caption: str) -> str:
    """A figure with a picture for light and one for dark pages."""
    light, dark = draw(LIGHT, "png"), draw(DARK, "png")
    return (
        f"<figure><picture><source media='(prefers-color-scheme: dark)' srcset='{data(dark)}'>"
        f"<img alt='{escape(name)}' src='{data(light)}'></picture><figcaption>{caption}</figcaption></figure>"
    )


def grid(png: bytes, name: str, caption: str, *, best: bool = False) -> str:
    """A figure with a grid of drawn pictures, the same on light and dark pages."""
    return (
        f"<figure{' class=best' if best else ''}><img class='grid' alt='{escape(name)}' src='{data(png)}'>"
        f"<figcaption>{caption}</figcaption></figure>"
    )


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], best: Sequence[bool] = ()) -> str:
    """A table of cells that are HTML. Rows marked `best` stand out."""
    marks = [*best, *[False] * (len(rows) - len(best))]
    body = "".join(
        f"<tr{' class=best' if mark else ''}>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>"
        for row, mark in zip(rows, marks, strict=True)
    )
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def data(png: bytes) -> str:
    """A data URL."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def listed(words: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def percent(sigma_rel: float) -> str:
    """An EMA length: 0.13 becomes 13 %."""
    return f"{100 * sigma_rel:.4g}{SPACE}%"


def number(value: float) -> str:
    """Four significant digits."""
    return f"{value:#.4g}".rstrip(".")
