"""What a list of runs shows beside their rows: loss curves, speed, best figures. One query each, for all runs shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import JSON, ColumnElement, Float, cast, func, literal, select, type_coerce
from sqlalchemy.orm import aliased

from phema.shared.catalog.models import Evaluation, HistoryPoint, Reconstruction, Run
from phema.shared.catalog.repositories.repository import Repository

Better = Literal["lower", "higher"]
Curve = list[tuple[int, float]]
"""(images, value) in order of images."""
_NOT_FINITE = ("nan", "inf", "-inf")
"""How `Figures` stores the values that JSON lacks."""


@dataclass(frozen=True)
class BestEvaluation:
    """The evaluation of a run with the best value of one figure."""

    evaluation_id: str
    reconstruction_id: str
    num_images: int
    profile: dict[str, Any]
    sigma_rel: float | None
    recipe: dict[str, Any]
    value: float
    standard_error: float | None


class RunOverviewRepository(Repository):
    """Each query reads a bounded number of rows per run, except `best`, which reads one run's evaluations once."""

    def curves(self, run_ids: Iterable[str], figure: str, points: int) -> dict[str, Curve]:
        """By run: at most `points` rows of its history that have `figure`, spread evenly over the images seen."""
        wanted = list(run_ids)
        if not wanted:
            return {}
        steps = select(literal(1).label("step")).cte("steps", recursive=True)
        steps = steps.union_all(select(steps.c.step + 1).where(steps.c.step < points))
        later = aliased(HistoryPoint)
        # The first row at or after each of `points` times: one look into the primary key per time.
        first = (
            select(func.min(later.num_images))
            .where(later.run_id == Run.id, later.num_images >= Run.num_images * steps.c.step // points)
            .scalar_subquery()
        )
        times = select(Run.id.label("run_id"), first.label("time")).select_from(Run).join(steps, Run.id.in_(wanted))
        chosen = times.distinct().subquery()
        # A value for each time, and no join, for which SQLite would read all of the history.
        value = select(_figure(HistoryPoint.values, figure)).where(
            HistoryPoint.run_id == chosen.c.run_id, HistoryPoint.num_images == chosen.c.time
        )
        query = select(chosen.c.run_id, chosen.c.time, value.scalar_subquery()).order_by(*chosen.c)
        found: dict[str, Curve] = {}
        for run_id, time, text in self._session.execute(query):
            if text is not None and text not in _NOT_FINITE:
                found.setdefault(run_id, []).append((time, float(text)))
        return found

    def latest(self, run_ids: Iterable[str], figure: str) -> dict[str, float]:
        """By run: the value of `figure` in the latest row of its history, if it is finite."""
        newest = (
            select(HistoryPoint.run_id, func.max(HistoryPoint.num_images).label("time"))
            .where(HistoryPoint.run_id.in_(list(run_ids)))
            .group_by(HistoryPoint.run_id)
            .subquery()
        )
        query = select(HistoryPoint.run_id, _figure(HistoryPoint.values, figure)).join(
            newest, (HistoryPoint.run_id == newest.c.run_id) & (HistoryPoint.num_images == newest.c.time)
        )
        found = self._session.execute(query).all()
        return {run_id: float(text) for run_id, text in found if text is not None and text not in _NOT_FINITE}

    def figures(self, run_ids: Iterable[str]) -> dict[str, list[str]]:
        """By run: the names of the figures of its newest finished evaluation."""
        newest = (
            select(func.max(Evaluation.seq))
            .where(Evaluation.run_id.in_(list(run_ids)), Evaluation.figures.is_not(None))
            .group_by(Evaluation.run_id)
        )
        query = select(Evaluation.run_id, Evaluation.figures).where(Evaluation.seq.in_(newest))
        return {run_id: list(figures or ()) for run_id, figures in self._session.execute(query)}

    def best(self, run_ids: Sequence[str], figure: str, better: Better) -> dict[str, BestEvaluation]:
        """By run: its finished evaluation with the best value of `figure`; the newest of equal ones."""
        text = _figure(Evaluation.figures, figure)
        value = cast(text, Float)
        places = (
            select(
                Evaluation.seq,
                func.row_number()
                .over(
                    partition_by=Evaluation.run_id,
                    order_by=(value if better == "lower" else value.desc(), Evaluation.seq.desc()),
                )
                .label("place"),
            )
            .where(
                Evaluation.run_id.in_(list(run_ids)),
                Evaluation.figures.is_not(None),
                text.is_not(None),
                text.not_in(_NOT_FINITE),
            )
            .subquery()
        )
        query = (
            select(
                Evaluation.run_id,
                Evaluation.id,
                Evaluation.reconstruction_id,
                Evaluation.recipe,
                Evaluation.figures,
                Evaluation.errors,
                Reconstruction.num_images,
                Reconstruction.profile,
                Reconstruction.sigma_rel,
            )
            .join(places, places.c.seq == Evaluation.seq)
            .join(Reconstruction, Reconstruction.id == Evaluation.reconstruction_id)
            .where(places.c.place == 1)
        )
        return {
            row.run_id: BestEvaluation(
                evaluation_id=row.id,
                reconstruction_id=row.reconstruction_id,
                num_images=row.num_images,
                profile=row.profile,
                sigma_rel=row.sigma_rel,
                recipe=row.recipe,
                value=row.figures[figure],
                standard_error=(row.errors or {}).get(figure),
            )
            for row in self._session.execute(query)
        }


def _figure(figures: Any, name: str) -> ColumnElement[str]:
    """One value of a `Figures` column as text, extracted by the database."""
    text: ColumnElement[str] = type_coerce(figures, JSON)[name].as_string()
    return text
