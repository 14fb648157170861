"""How weights average the training history, as snapshot files, rows and requests name it. Torch-free."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from phema.shared.edm2.averaging.power_function import gamma_from_sigma_rel, sigma_rel_from_gamma

Kind = Literal["power", "exponential", "uniform", "raw", "sampled", "basis", "per_tensor"]

_NEEDS: dict[str, tuple[str, ...]] = {
    "power": ("sigma_rel", "gamma"),
    "exponential": ("half_life_images",),
    "uniform": ("window_images",),
    "raw": (),
    "sampled": ("times", "weights"),
    "basis": ("index",),
    "per_tensor": ("default", "tensors"),
}
_MAY_HAVE = {"exponential": ("rampup_ratio",)}
_RAMP = {"kind", "rampup_ratio"}
MIN_SIGMA_REL = 1e-6
"""Beyond it, and the gamma that goes with it, averages are the weights themselves and floats overflow."""
_MAX_GAMMA = 1e6
_MIN_RATIO = 1e-6
_MAX_IMAGES = 2**53 - 1
"""Counts are exact in float64, too."""
_MAX_TIMES = 1024
_MAX_TENSORS = 256
_ASKED = {"power": "sigma_rel or gamma", "exponential": "half_life_images or rampup_ratio"}
"""Where one field is enough, because others follow."""


class Profile(BaseModel):
    """A weighting of training history up to some time; floats are exact (JSON of Python's repr).

    - `power`: power-function EMA; `sigma_rel` or `gamma` is enough, the other follows.
    - `exponential`: traditional EMA of `half_life_images`, held below `rampup_ratio` of the images seen if given. A
      `rampup_ratio` alone holds for ever: this is the power function of gamma = ln 2 / rampup_ratio - 1 and becomes it.
    - `uniform`: mean of the last `window_images` images.
    - `raw`: the weights themselves, as a checkpoint has them.
    - `sampled`: any piecewise constant weighting: `weights[i]`, relative to each other, is the share of the images
      between `times[i - 1]` (0 for the first) and `times[i]`; the last time is the profile's own.
    - `basis`: vector `index` of a basis; no average by itself.
    - `per_tensor`: `default`, except for tensors whose name matches a pattern of `tensors`; the first match counts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Kind = "power"
    sigma_rel: float | None = None
    gamma: float | None = None
    half_life_images: int | None = Field(default=None, ge=1, le=_MAX_IMAGES)
    rampup_ratio: float | None = Field(default=None, ge=_MIN_RATIO)
    window_images: int | None = Field(default=None, ge=1, le=_MAX_IMAGES)
    times: tuple[int, ...] | None = None
    weights: tuple[float, ...] | None = None
    index: int | None = Field(default=None, ge=0)
    default: Profile | None = None
    tensors: tuple[TensorProfile, ...] | None = None

    @classmethod
    def power(cls, sigma_rel: float) -> Profile:
        """The power-function EMA of that relative width. Raises ValueError for an impossible one."""
        return cls(sigma_rel=sigma_rel)

    @model_validator(mode="before")
    @classmethod
    def _exponent_and_width(cls, given: Any) -> Any:
        """Either of `sigma_rel` and `gamma` follows from the other, both from a ramp-up ratio that nothing ends."""
        if not isinstance(given, dict):
            return given
        ratio = given.get("rampup_ratio")
        if given.get("kind") == "exponential" and isinstance(ratio, int | float) and set(given) <= _RAMP:
            if not _MIN_RATIO <= ratio < math.log(2):
                raise ValueError(f"rampup_ratio {shown(ratio)} must lie between {_MIN_RATIO:g} and ln 2 = 0.6931")
            given = {"kind": "power", "gamma": math.log(2) / ratio - 1}
        if given.get("kind", "power") != "power":
            return given
        sigma_rel, gamma = given.get("sigma_rel"), given.get("gamma")
        if isinstance(sigma_rel, int | float) and gamma is None:
            if 0 < sigma_rel < MIN_SIGMA_REL:
                raise ValueError(f"sigma_rel {sigma_rel:g} must be at least {MIN_SIGMA_REL:g}")
            return given | {"gamma": gamma_from_sigma_rel(sigma_rel)}
        if isinstance(gamma, int | float) and sigma_rel is None:
            _check_gamma(gamma)
            return given | {"sigma_rel": sigma_rel_from_gamma(gamma)}
        return given

    @field_validator("times")
    @classmethod
    def _rising(cls, times: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if times is None:
            return times
        if len(times) > _MAX_TIMES:
            raise ValueError(f"times has {len(times)} entries; a sampled profile takes at most {_MAX_TIMES}")
        if not (times and times[0] > 0 and all(a < b for a, b in pairwise(times))):
            raise ValueError("times must be positive and rise from each to the next")
        if times[-1] > _MAX_IMAGES:
            raise ValueError(f"times must end at {_MAX_IMAGES} images or before")
        return times

    @field_validator("weights")
    @classmethod
    def _finite_sum(cls, weights: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if weights is not None and not math.isfinite(sum(map(abs, weights))):
            raise ValueError("weights must have a finite sum; give smaller ones, they are relative to each other")
        return weights

    @field_validator("tensors")
    @classmethod
    def _few_patterns(cls, tensors: tuple[TensorProfile, ...] | None) -> tuple[TensorProfile, ...] | None:
        if tensors is not None and len(tensors) > _MAX_TENSORS:
            raise ValueError(f"tensors has {len(tensors)} patterns; a per_tensor profile takes at most {_MAX_TENSORS}")
        return tensors

    @model_validator(mode="after")
    def _fields_of_its_kind(self) -> Self:
        given = {name for name in self.__class__.model_fields if name != "kind" and getattr(self, name) is not None}
        needed = set(_NEEDS[self.kind])
        if not needed <= given or given - needed - set(_MAY_HAVE.get(self.kind, ())):
            fields = _ASKED.get(self.kind) or " and ".join(_NEEDS[self.kind]) or "no fields"
            raise ValueError(f"a profile of kind {self.kind!r} needs {fields} and no other kind's fields")
        if self.gamma is not None and self.sigma_rel is not None:
            _check_gamma(self.gamma)
            width = sigma_rel_from_gamma(self.gamma)
            if not math.isclose(width, self.sigma_rel, rel_tol=1e-9):
                raise ValueError(
                    f"gamma {self.gamma:g} makes sigma_rel {width:g}, not {self.sigma_rel:g}; give one of the two"
                )
        if self.times is not None and self.weights is not None:
            if len(self.times) != len(self.weights):
                raise ValueError(f"weights has {len(self.weights)} entries, times {len(self.times)}; give one for each")
            if not math.fsum(self.weights) > 0:
                raise ValueError("weights must sum to more than 0")
        if self.default is not None and self.default.kind in ("per_tensor", "basis"):
            raise ValueError(f"default of a per_tensor profile cannot be of kind {self.default.kind!r}")
        return self

    @model_serializer(mode="wrap")
    def _own_fields_only(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As versions that knew fewer kinds wrote it: equal contents make equal bytes."""
        return {name: value for name, value in handler(self).items() if value is not None}

    @property
    def key(self) -> str:
        """Canonical text: equal for equal profiles and for no others."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @property
    def label(self) -> str:
        """Short, for people and file names; different profiles may share one."""
        match self.kind:
            case "power":
                return f"{self.sigma_rel:g}"
            case "exponential":
                return "ema"
            case "uniform":
                return f"mean-{self.window_images}"
            case "basis":
                return f"basis-{self.index}"
            case "per_tensor":
                return f"{self.default.label if self.default else ''}-per-tensor"
            case _:
                return self.kind


class TensorProfile(BaseModel):
    """Tensors whose name matches `pattern` (shell wildcards, case counts) have their own profile."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pattern: str = Field(min_length=1)
    profile: Profile

    @model_validator(mode="after")
    def _plain(self) -> Self:
        if self.profile.kind in ("per_tensor", "basis"):
            raise ValueError(f"the profile of a pattern cannot be of kind {self.profile.kind!r}")
        return self


def shown(value: float) -> str:
    """A user's number in a sentence: integers may be too large for any float."""
    try:
        return f"{value:g}"
    except OverflowError:
        return "with hundreds of digits"


def _check_gamma(gamma: float) -> None:
    if gamma > _MAX_GAMMA:
        raise ValueError(f"gamma {shown(gamma)} must be at most {_MAX_GAMMA:g}")
