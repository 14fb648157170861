"""Names of runs, for tables whose rows know ids only."""

from __future__ import annotations

from collections.abc import Iterable

from phema.shared.catalog import Transaction


def run_names(tx: Transaction, ids: Iterable[str | None]) -> dict[str, str]:
    """The names of the runs with these ids, by one query."""
    wanted = {identity for identity in ids if identity is not None}
    return {row.id: row.name for row in tx.runs.with_ids(wanted)} if wanted else {}
