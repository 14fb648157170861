"""Grids of pictures from the same seeds under every EMA length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import zip_longest

from phema.shared.analyses.tables import Row
from phema.shared.reports.findings import Findings, RunRows
from phema.shared.reports.markup import grid, percent
from phema.shared.reports.sections.lengths import value_in_words

MOST_GRIDS = 12
"""Grids that are shown of each run."""


def section(findings: Findings) -> str:
    chosen = [_chosen(one) for one in findings.by_run]
    # The best of each run first: a page has room for some bytes of grids only.
    in_turn = [row for rank in zip_longest(*chosen) for row in rank if row is not None]
    pictures = {row.point.evaluation_id: findings.inputs.grid_of(row.point) for row in in_turn}
    items = [(one, _gallery(one, rows, pictures)) for one, rows in zip(findings.by_run, chosen, strict=True)]
    shown = [(one, html) for one, html in items if html]
    if not shown:
        return ""
    several = len(shown) > 1
    galleries = "".join(f"{f'<h3>{escape(one.run.name)}</h3>' if several else ''}{html}" for one, html in shown)
    return (
        "<h2>The same noise under every length</h2><p>All grids start from the same noise, so that pictures at the "
        "same place can be compared: only the weights differ.</p>" + galleries
    )


def _gallery(one: RunRows, rows: Sequence[Row], pictures: Mapping[str, bytes | None]) -> str:
    items = []
    for row in sorted(rows, key=lambda row: row.point.sigma_rel or 0.0):
        png = pictures[row.point.evaluation_id]
        if png is not None:
            best = row is rows[0]
            label = f"{percent(row.point.sigma_rel or 0.0)}{' · best' if best else ''}"
            caption = f"<b>{label}</b><span>{value_in_words(row)}</span>"
            items.append(grid(png, f"Pictures drawn at {100 * (row.point.sigma_rel or 0):.4g} %", caption, best=best))
    if not items:
        return ""
    some = f"<p>{len(items)} of {len(one.rows)} lengths are shown.</p>" if len(items) < len(one.rows) else ""
    return f"{some}<div class='gallery'>{''.join(items)}</div>"


def _chosen(one: RunRows) -> list[Row]:
    """The best row, then rows that cannot be told from it, then others."""
    best, tied = one.best, one.tied
    named = {id(row) for row in (best, *tied)}
    near = _spread(tied, MOST_GRIDS - 1)
    others = [row for row in one.rows if id(row) not in named]
    return [best, *near, *_spread(others, MOST_GRIDS - 1 - len(near))]


def _spread(rows: Sequence[Row], most: int) -> list[Row]:
    """At most `most` of the rows, evenly spread, the first and the last among them."""
    if len(rows) <= most:
        return list(rows)
    if most < 2:
        return list(rows[:most])
    return [rows[round(place * (len(rows) - 1) / (most - 1))] for place in range(most)]
