"""Fields of Heun's sampler and of guidance, as requests name them. Torch-free, so that the API can validate them."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from phema.shared.edm2.networks.config import FrozenModel


class SamplerSettings(FrozenModel):
    """How a picture is drawn from a seed."""

    num_steps: Annotated[int, Field(ge=2, le=1000)] = 32
    sigma_min: Annotated[float, Field(gt=0)] = 0.002
    sigma_max: Annotated[float, Field(gt=0)] = 80.0
    rho: Annotated[float, Field(gt=0)] = 7.0
    guidance: Annotated[float, Field(ge=0, le=100)] = 1.0
    """Guidance weight w; 1 means no guidance."""
    guide_id: str | None = None
    """Id of the reconstruction whose weights guide the sampler."""
    guidance_interval: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(gt=0)]] | None = None
    """Guide only steps whose middle noise level is above the first and at most the second; None guides all steps."""
    churn: Annotated[float, Field(ge=0)] = 0.0
    """S_churn of EDM's stochastic sampler: amount of noise added over all steps; 0 for none."""
    churn_min: Annotated[float, Field(ge=0)] = 0.0
    churn_max: Annotated[float, Field(gt=0)] | None = None
    """Noise is added at levels from `churn_min` to `churn_max`; None for no upper bound."""
    churn_noise: Annotated[float, Field(gt=0)] = 1.0
    """S_noise: factor of the standard deviation of the added noise."""

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if self.guidance != 1 and self.guide_id is None:
            raise ValueError(f"guidance {self.guidance:g} needs guide_id; only guidance 1 samples without a guide")
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min {self.sigma_min:g} must be below sigma_max {self.sigma_max:g}")
        if self.guidance_interval is not None and self.guidance_interval[0] >= self.guidance_interval[1]:
            low, high = self.guidance_interval
            raise ValueError(f"guidance_interval [{low:g}, {high:g}] must rise from its first to its second entry")
        if self.churn_max is not None and self.churn_min >= self.churn_max:
            raise ValueError(f"churn_min {self.churn_min:g} must be below churn_max {self.churn_max:g}")
        return self

    def without_effect(self) -> str | None:
        """One sentence about a field that has no effect with guidance 1; None if there is none."""
        if self.guidance != 1:
            return None
        for field, shown in (("guide_id", "{}"), ("guidance_interval", "[{0[0]:g}, {0[1]:g}]")):
            if (value := getattr(self, field)) is not None:
                given = shown.format(value)
                return f"{field} {given} has no effect with guidance 1; leave it out, or give a guidance other than 1"
        return None
