"""Rows of `/v1/models`: reconstructions that users named."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select

from phema.shared.catalog.models import PromotedModel
from phema.shared.catalog.pagination import Page
from phema.shared.catalog.repositories.repository import Repository


class ModelRepository(Repository):
    def latest_version(self, name: str) -> int:
        """The highest version of the model `name`; 0 if there is none."""
        return self._session.scalar(select(func.max(PromotedModel.version)).where(PromotedModel.name == name)) or 0

    def promote(
        self,
        model_id: str,
        *,
        name: str,
        version: int,
        run_id: str,
        reconstruction_id: str,
        document: dict[str, Any],
        created_at: float,
    ) -> PromotedModel | None:
        """Add a version of the model `name`. None when that version exists. `created_at`: by the catalog's clock."""
        values = {
            "id": model_id,
            "name": name,
            "version": version,
            "run_id": run_id,
            "reconstruction_id": reconstruction_id,
            "document": document,
            "created_at": created_at,
        }
        return self.get(model_id) if self._add(PromotedModel, values, ["name", "version"]) else None

    def has(self, model_id: str) -> bool:
        """Whether there is a row with this id."""
        return self._session.scalar(select(PromotedModel.id).where(PromotedModel.id == model_id)) is not None

    def get(self, model: str) -> PromotedModel:
        """By id, by `name` (the latest version), or by `name:version`. Raises `NotFound`."""
        query = select(PromotedModel).where((PromotedModel.id == model) | (PromotedModel.name == model))
        name, colon, version = model.rpartition(":")
        if colon and version.isascii() and version.isdigit() and len(version) < 10:
            query = select(PromotedModel).where(PromotedModel.name == name, PromotedModel.version == int(version))
        return self._one(query.order_by(PromotedModel.seq.desc()), "model", model)

    def page(
        self, *, name: str | None = None, run_id: str | None = None, after: str | None = None, limit: int = 50
    ) -> Page[PromotedModel]:
        """A page of versions, newest first."""
        query = select(PromotedModel)
        if name is not None:
            query = query.where(PromotedModel.name == name)
        if run_id is not None:
            query = query.where(PromotedModel.run_id == run_id)
        return self._newest_first(query, PromotedModel.seq, after, limit)
