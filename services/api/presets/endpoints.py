"""`/v1/presets`."""

from __future__ import annotations

from fastapi import APIRouter

from phema.services.api.http.schema_base import Page
from phema.services.api.presets.schemas import Preset
from phema.shared.recipes.presets import PRESETS

router = APIRouter(tags=["runs"])


@router.get("/v1/presets", summary="List presets")
def list_presets() -> Page[Preset]:
    """Every preset with its size, its cost, the published figures and the complete configuration of its runs."""
    return Page(items=[_item(name) for name in PRESETS])


def _item(name: str) -> Preset:
    preset = PRESETS[name]
    return Preset(name=name, summary=preset.summary, **preset.figures, config=preset.config.model_dump(mode="json"))
