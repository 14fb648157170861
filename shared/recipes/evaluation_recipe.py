"""How weights are sampled and scored: a complete evaluation recipe. Torch-free, so that the API can validate it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from phema.shared.metrics.registry import METRICS
from phema.shared.recipes.sampler_settings import SamplerSettings

if TYPE_CHECKING:
    MetricName = str
else:
    # The allowed values follow the registry; in the API's schema and error messages they are an enumeration.
    MetricName = Literal[tuple(METRICS)]


class EvaluationRecipe(SamplerSettings):
    """How one set of weights is sampled and scored."""

    num_samples: Annotated[int, Field(ge=1, le=100_000)] = 1024
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the first picture; picture i uses seed + i."""
    metrics: tuple[MetricName, ...] = ("frechet", "held_out_loss")
    """The API fills in `default_metrics` of the run for a request that names none."""
    grid: Annotated[int, Field(ge=1, le=32)] = 10
    """Rows and columns of the grid of pictures that is stored."""
    keep_pictures: bool = False
    """Keep all pictures in a zip file of PNG files, in the layout of a dataset."""

    def document(self) -> dict[str, Any]:
        """As JSON, as it is stored and compared. Fields added since the first version are left out at their default,
        so that equal recipes are found whichever version stored them."""
        fields = self.model_dump(mode="json")
        return {name: value for name, value in fields.items() if name != "keep_pictures" or value}
