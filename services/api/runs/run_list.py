"""Which runs a list shows, and in which order: the query parameters of `/v1/runs` and of the page `/runs`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from fastapi import Depends, Query

from phema.services.api.http.schema_base import RunStateQuery
from phema.shared.catalog import Order, RunSort, RunState


class Origin(StrEnum):
    """Who trains a run."""

    TRAINED = "trained"
    EXTERNAL = "external"
    IMPORTED = "imported"


@dataclass(frozen=True)
class RunList:
    """None is every run, or the usual order of `sort`."""

    state: RunState | None = None
    name: str | None = None
    origin: Origin | None = None
    preset: str | None = None
    sort: RunSort = RunSort.CREATED
    order: Order | None = None

    @property
    def query(self) -> dict[str, str]:
        """The query parameters that differ from their default."""
        given = {"state": self.state, "name": self.name, "origin": self.origin, "preset": self.preset}
        sorting = {"sort": self.sort if self.sort is not RunSort.CREATED else None, "order": self.order}
        return {name: str(value) for name, value in (given | sorting).items() if value}


def _run_list(
    state: RunStateQuery = None,
    name: Annotated[
        str | None,
        Query(max_length=100, description="Only runs whose name contains this text, in letters of any case."),
    ] = None,
    origin: Annotated[
        Origin | None, Query(description="Only runs that phema `trained`, `external` or `imported` ones.")
    ] = None,
    preset: Annotated[str | None, Query(max_length=100, description="Only runs of this preset.")] = None,
    sort: Annotated[
        RunSort,
        Query(description="`created`, `name`, `images` seen, or `progress`: the images seen as a share of the length."),
    ] = RunSort.CREATED,
    order: Annotated[Order | None, Query(description="By default names ascend, and everything else descends.")] = None,
) -> RunList:
    return RunList(state, name, origin, preset, sort, order)


RunListDep = Annotated[RunList, Depends(_run_list)]
