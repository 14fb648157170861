"""Query parameters that name a resource."""

from __future__ import annotations

from phema.services.api.http.problems import Invalid
from phema.shared import catalog
from phema.shared.catalog import Transaction


def run_id_of(tx: Transaction, run: str | None) -> str | None:
    """The id of the run that a query parameter names by id or by name. Raises Invalid."""
    if run is None:
        return None
    try:
        return tx.runs.get(run).id
    except catalog.NotFound as error:
        raise Invalid.of("run", f"run {run!r} is neither the id nor the name of a run", place="query") from error
