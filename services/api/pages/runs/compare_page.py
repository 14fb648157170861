"""`/compare?run=…`: runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import HTMLResponse

from phema.services.api.analyses.finished_evaluations import finished_evaluations, runs_of, with_replicates
from phema.services.api.http.problems import Invalid
from phema.services.api.http.schema_base import NAME
from phema.services.api.pages.rendering.dependencies import PagesDep
from phema.services.api.pages.runs import configuration_table
from phema.services.api.runs import service
from phema.services.api.runs.overview import overviews
from phema.shared import catalog
from phema.shared.analyses.analysis import figure_title
from phema.shared.analyses.evaluated_points import EvaluatedPoint
from phema.shared.analyses.kinds import ANALYSES, Analysed, analyse
from phema.shared.analyses.selection import NothingToShow
from phema.shared.analyses.tables import Row
from phema.shared.catalog import Transaction

router = APIRouter()
MOST = 12
"""Runs of one page."""

Names = Annotated[
    list[Annotated[str, Query(max_length=100, pattern=NAME)]], Query(description="Name or id of a run; repeat it.")
]


@dataclass(frozen=True)
class Comparison:
    """Evaluations of the runs that differ only in run and EMA length."""

    lengths: Analysed
    several_times: bool
    """Whether the runs were evaluated at several training times (Figure 5c)."""
    guided: Sequence[str]
    """Runs that were evaluated with several guidance weights (Figure 6)."""

    @property
    def figure(self) -> str:
        """The figure that is compared, in words."""
        return figure_title(self.lengths.selection.figure)

    @property
    def best(self) -> list[Row]:
        """The best row of each run, in the order of the runs."""
        sign = 1 if self.lengths.selection.better == "lower" else -1
        best: dict[str, Row] = {}
        for row in self.lengths.rows:
            known = best.get(row.point.run)
            if known is None or sign * row.compared.value.value < sign * known.compared.value.value:
                best[row.point.run] = row
        return list(best.values())


@router.get("/compare")
def compare(request: Request, pages: PagesDep, run: Names = []) -> HTMLResponse:  # noqa: B006
    if len(run) > MOST:
        raise Invalid.of("run", f"run names {len(run)} runs; at most {MOST} are compared on one page", place="query")
    with pages.services.catalog.transaction(read_only=True) as tx:
        rows = runs_of(tx, run)
        runs = [service.to_run(row) for row in rows]
        beside = overviews(tx, runs)
        found = _comparison(tx, rows) if rows else None
    names = [row.name for row in rows]
    query = "&".join(f"run={name}" for name in names)
    same_by = [
        pages.equivalent(
            request,
            "The figures over the EMA length",
            f"/v1/analyses/ema-length?{query}",
            f'client.analyses.get("ema-length", {names!r})',
            ["analyze", "ema-length", *names],
        ),
        pages.equivalent(request, "A report", f"/v1/reports?{query}", f"client.report({names!r})", ["report", *names]),
    ]
    return pages.render(
        request,
        "compare.html",
        runs=runs,
        overviews=beside,
        query=query,
        found=found,
        fields=[field for field in configuration_table.table([row.config for row in rows]) if field.differs],
        same_by=same_by if rows else (),
    )


def _comparison(tx: Transaction, rows: Sequence[catalog.Run]) -> Comparison | None:
    points = finished_evaluations(tx, rows)
    lengths = _analysed("ema-length", points)
    if lengths is None:
        return None
    lengths = lengths.with_points(with_replicates(tx, lengths.selection.points, [lengths.selection.figure]))
    over_time = _analysed("training-time", points)
    times = {(point.run, point.num_images) for point in over_time.selection.points} if over_time else set()
    guided = [row.name for row in rows if _is_guided([point for point in points if point.run == row.name])]
    return Comparison(lengths, len(times) > len({run for run, _ in times}), guided)


def _is_guided(points: Sequence[EvaluatedPoint]) -> bool:
    """Whether the evaluations of a run can be compared over the guidance weight."""
    found = _analysed("guidance", points)
    return found is not None and len({point.guidance for point in found.selection.points}) > 1


def _analysed(name: str, points: Sequence[EvaluatedPoint]) -> Analysed | None:
    """None where no evaluation fits."""
    try:
        return analyse(ANALYSES[name], points)
    except NothingToShow:
        return None
