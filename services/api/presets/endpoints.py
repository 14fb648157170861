"""`/v1/presets`."""

from __future__ import annotations

from fastapi import APIRouter

from services.api.presets.schemas import Preset
from services.api.schema import Page
from shared.recipes.presets import PRESETS, resolve

router = APIRouter(tags=["runs"])


@router.get("/v1/presets", summary="List the recipes")
def list_presets() -> Page[Preset]:
    """Every preset with the complete configuration that a run of it has."""
    return Page(items=[Preset(name=name, config=resolve(name).model_dump(mode="json")) for name in PRESETS])
