"""Time and profile of an average that diffusers' `EMAModel.save_pretrained` wrote, from its `config.json`. Torch-free.

diffusers' average has a constant decay per step, after a beginning in which step k keeps k / (k + 9) of the average.
That beginning is a half-life of ln 2 / 9 of the steps so far, so the average is phema's exponential profile with this
`rampup_ratio`. The two differ by a relative shift of about 5 steps at the beginning.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from phema.shared.snapshots.foreign.errors import ForeignFileRefused
from phema.shared.snapshots.profile import Profile
from phema.shared.validation_sentences import sentence

_MAX_CONFIG_BYTES = 2**22
_RAMPUP_STEPS = 9


class _Config(BaseModel):
    """The fields that EMAModel adds to the configuration of its model."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    decay: float = Field(gt=0, lt=1)
    optimization_step: int = Field(ge=0, lt=2**53)
    min_decay: float = 0.0
    update_after_step: int = 0
    use_ema_warmup: bool = False


@dataclass(frozen=True)
class DiffusersAverage:
    """An average with `decay` per step, after `steps` steps."""

    decay: float
    steps: int

    def profile(self, images_per_step: int) -> Profile:
        half_life = math.log(2) / -math.log(self.decay) * images_per_step
        return Profile(
            kind="exponential", half_life_images=max(1, round(half_life)), rampup_ratio=math.log(2) / _RAMPUP_STEPS
        )


def read_average(config: Path) -> DiffusersAverage | None:
    """The average that a `config.json` describes; None for the configuration of anything else.

    Raises ForeignFileRefused for averages that are no exponential profile.
    """
    name = str(config)
    if config.stat().st_size > _MAX_CONFIG_BYTES:
        return None
    text = config.read_bytes()
    if b'"optimization_step"' not in text:
        return None
    try:
        found = _Config.model_validate_json(text)
    except ValidationError as error:
        raise ForeignFileRefused(name, f"its {sentence(error.errors(include_url=False)[0])}") from error
    for field in ("use_ema_warmup", "update_after_step", "min_decay"):
        if value := getattr(found, field):
            raise ForeignFileRefused(
                name,
                f"its {field} is {value}, with which the average is no exponential profile; give --mapping with its "
                "profile, which may be of kind sampled",
            )
    return DiffusersAverage(found.decay, found.optimization_step)
