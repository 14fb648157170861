"""Reads the answers of finished searches over the EMA length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from phema.shared import catalog
from phema.shared.catalog import JobState, StudyKind, Transaction
from phema.shared.reports.inputs import FoundOptimum

_MOST = 50
"""Newest searches that are looked at."""


def found_optimum(tx: Transaction, run: catalog.Run) -> FoundOptimum | None:
    """The answer of the run's newest finished search over the EMA length alone; None without one."""
    for study in tx.studies.page(StudyKind.SEARCH, run.id, limit=_MOST).items:
        if study.state is not JobState.SUCCEEDED or study.result is None:
            continue
        try:
            found = _read(run.name, study.spec, study.result)
        except (KeyError, TypeError, ValueError):  # the answer of another version
            continue
        if found is not None:
            return found
    return None


def _read(run: str, spec: Mapping[str, Any], result: Mapping[str, Any]) -> FoundOptimum | None:
    """None for a search over more than the EMA length."""
    point = result.get("point")
    if not isinstance(point, Mapping) or set(point) != {"sigma_rel"}:
        return None
    low, high = result["interval"]["sigma_rel"]
    curve = [(one["point"]["sigma_rel"], one["value"], one["difference_error"] or 0.0) for one in result["curve"]]
    return FoundOptimum(
        run=run,
        figure=result["figure"],
        num_images=spec["num_images"],
        num_samples=result["num_samples"],
        sigma_rel=point["sigma_rel"],
        low=low,
        high=high,
        value=result["value"],
        standard_error=result["standard_error"],
        at_the_edge="sigma_rel" in result["at_edge"],
        num_pictures=result["pictures"],
        curve=curve,
    )
