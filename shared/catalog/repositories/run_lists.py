"""Lists of runs: filters, orders, and the cursors of their pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from sqlalchemy import ColumnElement, Double, Select, and_, cast, exists, not_, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute

from phema.shared.catalog.models import Job, JobKind, JobState, Run, RunState
from phema.shared.catalog.pagination import decode_cursor

Order = Literal["asc", "desc"]


class RunSort(StrEnum):
    """What a list of runs is sorted by; runs with equal values are in order of their creation."""

    CREATED = "created"
    NAME = "name"
    PROGRESS = "progress"
    """Images seen, as a share of the length of the training."""
    IMAGES = "images"
    """Images seen."""


_KEYS: Mapping[RunSort, tuple[ColumnElement[Any] | InstrumentedAttribute[Any], type]] = {
    RunSort.NAME: (Run.name, str),
    RunSort.PROGRESS: (cast(Run.num_images, Double) / Run.total_images, float),
    RunSort.IMAGES: (Run.num_images, int),
}
"""Column and type of the value that rows are sorted by, before `Run.seq`."""


@dataclass(frozen=True)
class RunFilter:
    """Which runs a list shows; None is every run."""

    state: RunState | None = None
    name: str | None = None
    """Part of the name, in letters of any case."""
    origin: str | None = None
    preset: str | None = None

    def apply(self, query: Select[Any]) -> Select[Any]:
        """`query` of runs, limited to these. Deleted runs are left out."""
        query = query.where(Run.deleted_at.is_(None))
        if self.state is not None:
            # Of each run in turn: a list of all jobs in a frequent state would be long.
            query = query.where(exists().where(Job.id == Run.job_id, *_in_state(self.state)))
        if self.name is not None:
            query = query.where(Run.name.icontains(self.name, autoescape=True))
        if self.origin is not None:
            query = query.where(Run.origin == self.origin)
        if self.preset is not None:
            query = query.where(Run.config["preset"].as_string() == self.preset)
        return query


def _in_state(state: RunState) -> list[ColumnElement[bool]]:
    """SQL of `Run.run_state`, about the run's job."""
    if state not in (RunState.STARTING, RunState.RUNNING):
        return [Job.state == JobState(state.value)]
    starts = and_(Job.kind == JobKind.TRAIN, Job.working.is_(False))
    return [Job.state == JobState.RUNNING, starts if state is RunState.STARTING else not_(starts)]


def natural_order(sort: RunSort) -> Order:
    """Names begin with a; for everything else, the newest or largest come first."""
    return "asc" if sort is RunSort.NAME else "desc"


def positions(found: RunFilter, sort: RunSort, order: Order, after: str | None) -> Select[Any]:
    """(`Run.seq`, value of the sort) of the runs, in order, after the cursor `after`. Raises `BadCursor`.

    The rows themselves are long, so that sorting all of them would be slow.
    """
    key, kind = _KEYS[sort]
    query = found.apply(select(Run.seq, key))
    if after is not None:
        here, there = tuple_(key, Run.seq), tuple_(*decode_cursor(after, kind, int))
        query = query.where(here > there if order == "asc" else here < there)
    return query.order_by(*((key, Run.seq) if order == "asc" else (key.desc(), Run.seq.desc())))
