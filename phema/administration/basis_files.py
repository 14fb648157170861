"""Restores the row of a basis from its files. Each file records the whole basis, and every file must exist."""

from __future__ import annotations

from collections.abc import Iterable

from phema.shared.catalog import Transaction
from phema.shared.catalog.content_keys import canonical
from phema.shared.snapshots.errors import CorruptObject
from phema.shared.snapshots.files.header import SnapshotMetadata
from phema.shared.snapshots.planning.basis_plan import BasisPlan
from phema.shared.snapshots.stores.interface import ObjectInfo

Vector = tuple[ObjectInfo, SnapshotMetadata]


def add_bases(tx: Transaction, run_id: str, found: Iterable[Vector], skipped: dict[str, str]) -> int:
    """Add rows for the bases of a run whose vectors all exist, and return how many rows are new.

    Files of incomplete bases go to `skipped`, with the reason. The snapshots that a basis was made of are not needed.
    """
    groups: dict[str, list[Vector]] = {}
    for vector in found:
        groups.setdefault(canonical([vector[1].num_images, vector[1].lineage]), []).append(vector)
    return sum(_add_basis(tx, run_id, group, skipped) for group in groups.values())


def _add_basis(tx: Transaction, run_id: str, group: list[Vector], skipped: dict[str, str]) -> bool:
    try:
        plan = _plan(tx, run_id, group[0][1])
    except CorruptObject as error:
        skipped.update({info.key: str(error) for info, _ in group})
        return False
    # A killed attempt may have left a second file of the same vector, with the same bytes.
    by_index = {metadata.profile.index: info for info, metadata in reversed(group)}
    missing = [index for index in range(len(plan.vectors)) if index not in by_index]
    if missing:
        for info, _ in group:
            skipped[info.key] = (
                f"object {info.key} is one of the {len(plan.vectors)} vectors of a basis, and vector {missing[0]} "
                "is not in the store"
            )
        return False
    row, _ = tx.bases.find_or_create(
        run_id=run_id,
        num_images=plan.num_images,
        sigma_rel_min=plan.sigma_rel_min,
        sigma_rel_max=plan.sigma_rel_max,
        tolerance=plan.tolerance,
        plan=plan.model_dump(mode="json"),
    )
    # A job that made the basis is responsible for its row and its files.
    if row.vectors is not None or row.job_id is not None:
        return False
    infos = [by_index[index] for index in range(len(plan.vectors))]
    tx.bases.complete(row.id, [{"key": i.key, "size": i.size, "sha256": str(i.sha256)} for i in infos])
    return True


def _plan(tx: Transaction, run_id: str, metadata: SnapshotMetadata) -> BasisPlan:
    ids = {snapshot.sha256: snapshot.id for snapshot in tx.snapshots.list(run_id)}
    try:
        return BasisPlan.from_lineage(metadata.num_images, metadata.lineage or {}, ids)
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptObject(f"a vector of run {run_id} does not say what its basis is: {error}") from error
