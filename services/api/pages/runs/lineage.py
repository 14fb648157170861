"""Where a run comes from and which runs began from it, for its page."""

from __future__ import annotations

from dataclasses import dataclass

from phema.shared import catalog
from phema.shared.catalog import Transaction


@dataclass(frozen=True)
class Lineage:
    parent: str | None
    """Name of the run that this one began from."""
    parent_is_there: bool
    """Whether the parent has a page: it may have been deleted."""
    forks: tuple[str, ...]
    """Names of the runs that began from this one."""
    checkpoints: tuple[int, ...]
    """Times at which a fork can begin."""


def lineage(tx: Transaction, run: catalog.Run) -> Lineage:
    parent = next(iter(tx.runs.with_ids([run.parent["run_id"]])), None) if run.parent is not None else None
    return Lineage(
        parent=None if parent is None else parent.name,
        parent_is_there=parent is not None and parent.deleted_at is None,
        forks=tuple(fork.name for fork in tx.run_forks.of(run.id)),
        checkpoints=tuple(row.num_images for row in tx.checkpoints.all_but_latest(run.id, 0)),
    )
