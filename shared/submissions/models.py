"""Promotions: a finished reconstruction becomes the next version of a named model.

The record of the model is an object of the store first, and a row afterwards. `draft` reads what the record says,
`hold_record` lists its object for deletion, and `promote` writes the row that names it. A process that dies in between
leaves an object that is deleted a minute later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.metadata import version

from pydantic import ValidationError

from phema.shared import catalog
from phema.shared.catalog import Transaction
from phema.shared.model_records.record import GuideFacts, ModelRecord, RunFacts, ScoredRecipe, WeightsFile
from phema.shared.recipes.run_config import RunConfig
from phema.shared.snapshots.planning.stored_plan import StoredPlan
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.object_keys import model_key
from phema.shared.submissions.evaluations import weights_of


class PromotionOvertaken(Exception):
    """Another promotion took the version, or the record's object may be deleted by now: draft again."""


def draft(
    tx: Transaction, model_id: str, name: str, reconstruction_id: str, description: str | None, now: float
) -> ModelRecord:
    """The record of the next version, without the version of phema that wrote the weights.

    Raises InvalidFields, NotFinished.
    """
    row = weights_of(tx, "reconstruction_id", reconstruction_id)
    run, profile = tx.runs.get(row.run_id), Profile.model_validate(row.profile)
    preset = run.config.get("preset")
    return ModelRecord(
        id=model_id,
        name=name,
        version=tx.models.latest_version(name) + 1,
        created_at=now,
        description=description,
        run=RunFacts(
            id=run.id,
            name=run.name,
            origin=run.origin,
            preset=preset if isinstance(preset, str) else None,
            config_hash=run.config_hash,
            num_images=run.num_images,
            total_images=run.total_images,
        ),
        num_images=row.num_images,
        profile=profile.model_dump(mode="json"),
        label=profile.label,
        dtype=row.dtype,
        weights=WeightsFile(key=str(row.key), size=int(row.size or 0), sha256=str(row.sha256), code_version=None),
        lineage=StoredPlan.model_validate(row.plan).lineage(),
        network=_network(run),
        evaluations=tuple(_scored(tx, one) for one in tx.evaluations.finished_of(row.id)),
        code_version=version("phema"),
    )


def hold_record(tx: Transaction, record: ModelRecord) -> str:
    """The key of the record's object. It is listed for deletion, until `promote` names it."""
    key = model_key(record.id)
    tx.deletions.hold(key)
    return key


def promote(tx: Transaction, record: ModelRecord, reconstruction_id: str) -> catalog.PromotedModel:
    """Write the row of a record whose object is in the store. Raises PromotionOvertaken."""
    row = tx.models.promote(
        record.id,
        name=record.name,
        version=record.version,
        run_id=record.run.id,
        reconstruction_id=reconstruction_id,
        document=record.model_dump(mode="json"),
        created_at=record.created_at,
    )
    if row is None or not tx.deletions.keep(model_key(record.id)):
        raise PromotionOvertaken
    return row


def _network(run: catalog.Run) -> dict[str, object] | None:
    try:
        return RunConfig.model_validate(run.config).network.model_dump(mode="json")
    except ValidationError:
        return None  # a run of another training loop


def _scored(tx: Transaction, row: catalog.Evaluation) -> ScoredRecipe:
    guide_id = row.recipe.get("guide_id")
    return ScoredRecipe(
        recipe={name: value for name, value in row.recipe.items() if name != "guide_id"},
        guide=None if guide_id is None else _guide(tx, guide_id),
        figures=_finite(row.figures or {}),
        errors=None if row.errors is None else _finite(row.errors),
        provenance=row.provenance,
    )


def _guide(tx: Transaction, reconstruction_id: str) -> GuideFacts | None:
    """None when the guide's run was deleted since."""
    try:
        row = tx.reconstructions.get(reconstruction_id)
    except catalog.NotFound:
        return None
    label = Profile.model_validate(row.profile).label
    return GuideFacts(run=tx.runs.get(row.run_id).name, num_images=row.num_images, label=label, sha256=row.sha256)


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
