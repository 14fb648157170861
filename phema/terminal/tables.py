"""Text tables that heed the width of the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

GAP, NARROW_GAP = 3, 2
"""Spaces between columns: where there is room, and where there is little."""


@dataclass(frozen=True)
class Table:
    """The lines of a table, and the columns that are left out for lack of width."""

    lines: list[str]
    left_out: list[str]


def laid_out(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[str] = (),
    spare: Sequence[str] = (),
    width: int | None = None,
) -> Table:
    """The table in at most `width` characters per line, if that is possible; None is any width.

    If the table is too wide, the gaps are narrowed, then the columns named in `spare` are left out, in that order, then
    cells are wrapped between words. A word is never cut or broken: an id that is cut off cannot be copied.
    """
    names = list(columns)
    cells = [[" ".join(cell.split("\n")) for cell in row] for row in (columns, *rows)]
    gap, left_out = GAP, []
    if width is not None and _total(_widths(cells), gap) > width:
        gap = NARROW_GAP
        for name in spare:
            if name in names and _total(_widths(cells), gap) > width:
                place = names.index(name)
                left_out.append(names.pop(place))
                cells = [[cell for index, cell in enumerate(row) if index != place] for row in cells]
    widths = _widths(cells)
    if width is not None and (excess := _total(widths, gap) - width) > 0:
        widths = _narrowed(cells, widths, excess)
    lines = [line for row in cells for line in _row(row, names, widths, right, " " * gap)]
    return Table(lines, left_out)


def _widths(cells: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*cells, strict=True)]


def _total(widths: Sequence[int], gap: int) -> int:
    return sum(widths) + gap * (len(widths) - 1)


def _narrowed(cells: Sequence[Sequence[str]], widths: Sequence[int], excess: int) -> list[int]:
    """The widths with `excess` characters taken from the widest columns, as far as their words allow."""
    narrowed = list(widths)
    least = [
        max((len(word) for cell in column for word in cell.split()), default=0) for column in zip(*cells, strict=True)
    ]
    while excess > 0:
        room = [width - smallest for width, smallest in zip(narrowed, least, strict=True)]
        widest = max(range(len(room)), key=lambda index: (room[index] > 0, narrowed[index]))
        if room[widest] <= 0:
            break
        narrowed[widest] -= 1
        excess -= 1
    return narrowed


def _row(
    cells: Sequence[str], names: Sequence[str], widths: Sequence[int], right: Sequence[str], gap: str
) -> list[str]:
    """The lines of one row: as many as its tallest cell has."""
    wrapped = [
        textwrap.wrap(cell, width, break_long_words=False, break_on_hyphens=False) if len(cell) > width else [cell]
        for cell, width in zip(cells, (max(width, 1) for width in widths), strict=True)
    ]
    aligned = [str.rjust if name in right else str.ljust for name in names]
    return [
        gap.join(
            align(lines[index] if index < len(lines) else "", width)
            for align, lines, width in zip(aligned, wrapped, widths, strict=True)
        ).rstrip()
        for index in range(max(map(len, wrapped)))
    ]
