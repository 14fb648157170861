"""The record of a promoted model: its figures, its lineage and what its user wrote. Torch-free.

The catalog keeps it in the model's row, and the store keeps it as an object, from which `phema db rebuild` restores the
row. It names the weights by their object and hash, because a rebuild gives reconstructions new ids.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class _Recorded(BaseModel):
    """Fields that this version does not know are kept."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)


class RunFacts(_Recorded):
    """The run that the weights come from, as it was at the promotion."""

    id: str
    name: str
    origin: str
    preset: str | None
    config_hash: str
    num_images: int
    """Images seen at the promotion; the weights' time is the record's `num_images`."""
    total_images: int


class WeightsFile(_Recorded):
    """The object in the store."""

    key: str
    size: int
    sha256: str
    code_version: str | None
    """Version of phema that wrote it."""


class GuideFacts(_Recorded):
    """The weights that guided an evaluation."""

    run: str
    """Name of its run."""
    num_images: int
    label: str
    """Of its profile."""
    sha256: str | None


class ScoredRecipe(_Recorded):
    """One evaluation of the weights. Figures that are not finite are None."""

    recipe: dict[str, Any]
    guide: GuideFacts | None
    figures: dict[str, float | None]
    errors: dict[str, float | None] | None
    """Standard errors of the figures that have one; None for evaluations without errors."""
    provenance: dict[str, Any] | None
    """What the figures were computed with."""


class ModelRecord(_Recorded):
    """One version of a model."""

    format: Literal[1] = 1
    id: str
    name: str
    version: int
    created_at: float
    """Seconds since the epoch, by the catalog's clock."""
    description: str | None
    run: RunFacts
    num_images: int
    """Training time of the weights."""
    profile: dict[str, Any]
    label: str
    """Short name of the profile, for people."""
    dtype: str
    weights: WeightsFile
    lineage: dict[str, Any]
    """The plan: snapshots with their hashes, coefficients, predicted errors (`StoredPlan.lineage`)."""
    network: dict[str, Any] | None
    """Configuration of the network; None for a network that is not phema's."""
    evaluations: tuple[ScoredRecipe, ...]
    code_version: str
    """Version of phema that promoted the model."""

    @property
    def reference(self) -> str:
        """`name:version`, as requests name the model."""
        return f"{self.name}:{self.version}"

    def same_content(self, other: ModelRecord) -> bool:
        """Whether both say the same about the same weights, whenever they were promoted.

        How far the run had trained at the promotion is not compared: promoting the same weights of a run that still
        trains makes no new version.
        """
        own: dict[str, Any] = dict.fromkeys(("id", "version", "created_at", "code_version"), True)
        own["run"] = {"num_images"}
        return self.model_dump(exclude=own) == other.model_dump(exclude=own)
