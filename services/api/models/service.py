"""Promoted models: the promotion in three short transactions, answers, and files."""

from __future__ import annotations

from starlette.responses import Response

from phema.services.api.http.dependencies import Services
from phema.services.api.http.downloads import Download
from phema.services.api.http.idempotency import EndpointResult, Idempotency
from phema.services.api.http.problems import Damaged, Unavailable
from phema.services.api.http.query_parameters import run_id_of
from phema.services.api.http.schema_base import Page
from phema.services.api.models.schemas import Model, ModelCreate, ModelDetail, ModelFigures
from phema.services.api.snapshots.service import MEDIA_TYPE
from phema.shared import catalog
from phema.shared.catalog import Transaction
from phema.shared.catalog.column_types import new_id
from phema.shared.model_records.record import ModelRecord
from phema.shared.snapshots.files.header import read_header
from phema.shared.submissions import models

_TRIES = 5
"""Promotions under one name that may come in between."""


def promote(services: Services, idempotency: Idempotency, body: ModelCreate) -> Response:
    """The answer: the new version, or the latest one if it says the same of the same weights.

    Raises SubmissionError, Damaged, Unavailable, and errors of catalog and store.
    """
    if (saved := idempotency.saved_response(body)) is not None:
        return saved
    for _ in range(_TRIES):
        try:
            return _try(services, idempotency, body)
        except models.PromotionOvertaken:
            continue
    raise Unavailable(f"name {body.name}: other promotions under this name came in between; try again")


def _try(services: Services, idempotency: Idempotency, body: ModelCreate) -> Response:
    """Raises models.PromotionOvertaken."""
    record = _record(services, body)
    if (existing := _existing(services, record)) is not None:
        return idempotency.run(body, lambda tx: EndpointResult(200, to_detail(tx.models.get(existing))))
    with services.catalog.transaction() as tx:
        key = models.hold_record(tx, record)
    # Outside of any transaction: on SQLite, all writers would wait for the store.
    services.store.put(key, record.model_dump_json(indent=1).encode())
    return idempotency.run(body, lambda tx: _promoted(tx, body, record))


def _record(services: Services, body: ModelCreate) -> ModelRecord:
    now = services.catalog.now()
    with services.catalog.transaction(read_only=True) as tx:
        drafted = models.draft(tx, new_id("mdl"), body.name, body.reconstruction_id, body.description, now)
    metadata = read_header(services.store, drafted.weights.key, size=drafted.weights.size).metadata
    written_by = None if metadata is None else metadata.code_version
    return drafted.model_copy(update={"weights": drafted.weights.model_copy(update={"code_version": written_by})})


def _existing(services: Services, record: ModelRecord) -> str | None:
    """Id of the latest version of the name, if its record has the same content."""
    with services.catalog.transaction(read_only=True) as tx:
        if record.version == 1:
            return None
        latest = tx.models.get(record.name)
    return latest.id if record.same_content(_document(latest)) else None


def _promoted(tx: Transaction, body: ModelCreate, record: ModelRecord) -> EndpointResult:
    return EndpointResult(201, to_detail(models.promote(tx, record, body.reconstruction_id)))


def _document(row: catalog.PromotedModel) -> ModelRecord:
    return ModelRecord.model_validate(row.document)


def to_model(row: catalog.PromotedModel) -> Model:
    record = _document(row)
    return Model(
        id=row.id,
        name=row.name,
        version=row.version,
        reference=record.reference,
        description=record.description,
        run_id=row.run_id,
        run=record.run.name,
        reconstruction_id=row.reconstruction_id,
        num_images=record.num_images,
        profile=record.profile,
        label=record.label,
        sigma_rel=record.profile.get("sigma_rel"),
        dtype=record.dtype,
        size=record.weights.size,
        sha256=record.weights.sha256,
        evaluations=[
            ModelFigures(
                recipe=scored.recipe,
                guide=None if scored.guide is None else scored.guide.model_dump(mode="json"),
                figures=scored.figures,
                errors=scored.errors,
                provenance=scored.provenance,
            )
            for scored in record.evaluations
        ],
        created_at=row.created_at,
    )


def to_detail(row: catalog.PromotedModel) -> ModelDetail:
    record = _document(row)
    return ModelDetail(
        **dict(to_model(row)),
        config_hash=record.run.config_hash,
        weights_code_version=record.weights.code_version,
        code_version=record.code_version,
        lineage=record.lineage,
        network=record.network,
    )


def page(tx: Transaction, *, name: str | None, run: str | None, cursor: str | None, limit: int) -> Page[Model]:
    """Newest first. Raises Invalid when `run` does not exist, catalog.BadCursor."""
    found = tx.models.page(name=name, run_id=run_id_of(tx, run), after=cursor, limit=limit)
    return Page(items=[to_model(row) for row in found.items], next_cursor=found.next_cursor)


def record_of(tx: Transaction, model: str) -> ModelRecord:
    """Raises catalog.NotFound."""
    return _document(tx.models.get(model))


def download(tx: Transaction, model: str) -> Download:
    """Raises catalog.NotFound, Damaged."""
    row = tx.models.get(model)
    weights = row.reconstruction
    if weights.key is None or weights.size is None:
        raise Damaged(f"model {row.name}:{row.version} has lost its weights")
    return Download(weights.key, weights.size, weights.sha256, f"{row.name}-{row.version}.safetensors", MEDIA_TYPE)
