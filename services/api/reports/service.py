"""Reports: from the catalog and the store to a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from pydantic import ValidationError

from phema.services.api.analyses.finished_evaluations import finished_evaluations, runs_of, with_replicates
from phema.services.api.analyses.stored_plans import plans_of_run
from phema.services.api.reports.searches import found_optimum
from phema.services.api.runs.service import finite
from phema.shared import catalog
from phema.shared.analyses.evaluated_points import EvaluatedPoint
from phema.shared.catalog import Transaction
from phema.shared.datasets import open_dataset
from phema.shared.recipes.run_config import DatasetConfig
from phema.shared.reports.findings import Findings
from phema.shared.reports.inputs import HistoryLine, ReportedRun, ReportInputs
from phema.shared.snapshots.errors import ObjectMissing
from phema.shared.snapshots.stores.interface import ObjectStore

REAL_PER_CLASS = 10
"""Training pictures of each class that a report shows."""
_MOST_HISTORY = 10_000
"""Rows of a run's history, spread over the whole run."""
_MOST_PICTURE_BYTES = 8 * 2**20
"""Larger grids are left out of the page."""
MOST_BYTES_OF_ALL_GRIDS = 32 * 2**20
"""A page with more would take long to send and to open."""


def inputs(tx: Transaction, names: Sequence[str], store: ObjectStore) -> ReportInputs:
    """Everything that the report shows, except the grids, which `ReportInputs.pictures` reads later. Raises Invalid."""
    runs = runs_of(tx, names)
    reported = [_run(tx, run) for run in runs]
    found = ReportInputs(
        runs=reported,
        points=finished_evaluations(tx, runs),
        plan=plans_of_run(tx, runs[0].id, None),
        pictures=_Grids(store).read,
        real=_real_pictures(reported[0]),
        optima=[optimum for run in runs if (optimum := found_optimum(tx, run)) is not None],
    )
    return replace(found, points=_with_errors(tx, found))


def _with_errors(tx: Transaction, inputs: ReportInputs) -> list[EvaluatedPoint]:
    """The points, with replicates of those that the report compares."""
    findings = Findings.of(inputs)
    if findings.lengths is None:
        return list(inputs.points)
    figures = [name for name in (findings.figure, findings.second) if name is not None]
    compared = with_replicates(tx, findings.lengths.selection.points, figures)
    by_id = {point.evaluation_id: point for point in compared}
    return [by_id.get(point.evaluation_id, point) for point in inputs.points]


def _run(tx: Transaction, row: catalog.Run) -> ReportedRun:
    history = tx.history.thinned(row.id, _MOST_HISTORY)
    latest = tx.snapshots.latest(row.id)
    stored = (
        {s.sigma_rel for s in tx.snapshots.list(row.id, up_to=latest.num_images) if s.num_images == latest.num_images}
        if latest is not None
        else set()
    )
    return ReportedRun(
        id=row.id,
        name=row.name,
        state=row.state,
        num_images=row.num_images,
        total_images=row.total_images,
        config=row.config,
        history=[HistoryLine(line.num_images, finite(line.values)) for line in history],
        thinned=len(history) < tx.history.count(row.id),
        stored=sorted(width for width in stored if width is not None),
    )


class _Grids:
    """Reads the grids of evaluations for one page, until they reach MOST_BYTES_OF_ALL_GRIDS together."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._read: dict[str, bytes | None] = {}
        self._left = MOST_BYTES_OF_ALL_GRIDS

    def read(self, key: str) -> bytes | None:
        """The grid; None if it is missing or too large for the page."""
        if key not in self._read:
            self._read[key] = self._load(key)
        return self._read[key]

    def _load(self, key: str) -> bytes | None:
        try:
            info = self._store.head(key)
            if info is None or info.size > min(_MOST_PICTURE_BYTES, self._left):
                return None
            content = bytes(self._store.read_range(key, 0, info.size))
        except ObjectMissing:
            return None
        self._left -= len(content)
        return content


def _real_pictures(run: ReportedRun) -> bytes | None:
    """Some training pictures of each class of the built-in digits; None for datasets that lie elsewhere.

    The folder of another dataset is on the machines that train, which need not be this one.
    """
    try:
        config = DatasetConfig.model_validate(dict(run.dataset)) if run.dataset else None
    except ValidationError:  # of another training loop
        return None
    if config is None or config.name != "digits" or config.path is not None:
        return None
    from phema.shared.pictures.picture_grid import grid_png

    dataset = open_dataset(config)
    chosen = [np.flatnonzero(dataset.train.labels == label)[:REAL_PER_CLASS] for label in range(dataset.num_classes)]
    images, _ = dataset.train.batch(np.concatenate(chosen))
    return grid_png(images, REAL_PER_CLASS)
