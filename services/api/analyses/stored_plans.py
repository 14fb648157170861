"""Reads the plans of finished reconstructions from the catalog."""

from __future__ import annotations

from collections.abc import Sequence

from phema.shared import catalog
from phema.shared.analyses.profiles import CombinedPlan, combine
from phema.shared.catalog import Transaction
from phema.shared.snapshots.planning.stored_plan import StoredPlan
from phema.shared.snapshots.profile import Profile

MOST_PLANS = 24
"""Newest reconstructions that are shown. A plan of many snapshots is long."""


def plans_of_run(tx: Transaction, run_id: str, num_images: int | None) -> CombinedPlan | None:
    """The newest finished reconstructions of a run at `num_images`; None is the latest time that has any.

    Returns None if there is no finished reconstruction.
    """
    rows = tx.reconstructions.finished(run_id, num_images, MOST_PLANS)
    return plans_of(rows) if rows else None


def plans_of(rows: Sequence[catalog.Reconstruction]) -> CombinedPlan:
    """The plans of reconstructions of one run at one time, newest first."""
    plans = [(Profile.model_validate(row.profile), StoredPlan.model_validate(row.plan)) for row in rows]
    return combine(rows[0].num_images, plans)
