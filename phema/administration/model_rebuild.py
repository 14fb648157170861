"""Restores the rows of promoted models from their records in the store."""

from __future__ import annotations

from pydantic import ValidationError

from phema.shared.catalog import Catalog, NotFound, Transaction
from phema.shared.model_records.record import ModelRecord
from phema.shared.snapshots.errors import CorruptObject, ObjectMissing
from phema.shared.snapshots.stores.interface import ObjectInfo, ObjectStore
from phema.shared.snapshots.stores.object_keys import model_key
from phema.shared.validation_sentences import sentence


def add_model(catalog: Catalog, store: ObjectStore, info: ObjectInfo) -> bool:
    """Add the row of a model from its record; False if it exists, or if the record is about to be deleted.

    The rows of its run and its weights must exist. Raises CorruptObject if they do not, or if the record is damaged,
    ObjectMissing, CatalogError and the store's other errors.
    """
    try:
        record = ModelRecord.model_validate_json(store.get(info.key))
    except ValidationError as error:
        problem = sentence(error.errors(include_url=False)[0])
        raise CorruptObject(f"object {info.key} is no record of a model: {problem}") from error
    if info.key != model_key(record.id):
        raise CorruptObject(f"object {info.key} is the record of model {record.id}, which has another key")
    with catalog.transaction() as tx:
        return _add(tx, record, info.key)


def _add(tx: Transaction, record: ModelRecord, key: str) -> bool:
    listed = tx.deletions.keys()
    if tx.models.has(record.id) or key in listed:
        return False
    try:
        run_id = tx.runs.get(record.run.id).id
    except NotFound as error:
        raise ObjectMissing(f"model {record.reference} belongs to run {record.run.name}, which is not known") from error
    weights = tx.reconstructions.with_key(run_id, record.weights.key)
    if weights is None or weights.sha256 != record.weights.sha256:
        raise ObjectMissing(f"model {record.reference} has lost its weights, object {record.weights.key}")
    row = tx.models.promote(
        record.id,
        name=record.name,
        version=record.version,
        run_id=run_id,
        reconstruction_id=weights.id,
        document=record.model_dump(mode="json"),
        created_at=record.created_at,
    )
    if row is None:
        raise CorruptObject(f"object {key} is the record of {record.reference}, which another model has already")
    return True
