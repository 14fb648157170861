"""The profile: how weights average the training history. Used in snapshot files, rows and requests. Torch-free."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from phema.shared.edm2.averaging.power_function import gamma_from_sigma_rel, sigma_rel_from_gamma

Kind = Literal["power", "exponential", "uniform", "lr_decay", "raw", "sampled", "mixture", "basis", "per_tensor"]
Shape = Literal["linear", "cosine", "1-sqrt", "1-square"]
"""Shapes of a decay of the learning rate: the keys of `phema.shared.edm2.averaging.decay_shapes.SHAPES`."""

_REQUIRED_FIELDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "power": (("sigma_rel", "gamma"),),
    "exponential": (("half_life_images",),),
    "uniform": (("window_images",), ("times",), ("last_times",)),
    "lr_decay": (("shape", "length_images"), ("shape", "start_images")),
    "raw": ((),),
    "sampled": (("times", "weights"),),
    "mixture": (("profiles", "weights"),),
    "basis": (("index",),),
    "per_tensor": (("default", "tensors"),),
}
"""For each kind, the sets of fields of which it needs one."""
_OPTIONAL_FIELDS = {"exponential": ("rampup_ratio",)}
_RAMPUP_ONLY = {"kind", "rampup_ratio"}
MIN_SIGMA_REL = 1e-6
"""Smallest width. Below it, the average equals the weights themselves and the computation of gamma overflows."""
_MAX_GAMMA = 1e6
_MIN_RATIO = 1e-6
_MAX_IMAGES = 2**53 - 1
"""Larger counts are not exact in float64."""
_MAX_TIMES = 1024
_MAX_TENSORS = 256
_MAX_MIXED = 64
MIXED_KINDS = ("power", "exponential", "uniform", "lr_decay")
MAX_PATTERN_CHARACTERS = 200
"""Longer than any name of a tensor. Matching takes time in proportion to pattern and name."""
_SUFFICIENT_FIELDS = {
    "power": "sigma_rel or gamma",
    "exponential": "half_life_images or rampup_ratio",
    "uniform": "one of window_images, times and last_times,",
    "lr_decay": "shape, and either length_images or start_images,",
}
"""What error messages ask for, where it is not all of the fields."""


_SHARED: dict[tuple[float, float], Profile] = {}
_MOST_SHARED = 1024


class Profile(BaseModel):
    """A weighting of the training history up to some time. Floats are exact (in JSON as in Python's repr).

    - `power`: power-function EMA. Give `sigma_rel` or `gamma`; each follows from the other. Profiles are equal if their
      `sigma_rel` are: `gamma` depends on the rounding of the machine's libm.
    - `exponential`: traditional EMA with half-life `half_life_images`. If `rampup_ratio` is given, the half-life is at
      most this fraction of the images seen. `rampup_ratio` without `half_life_images` is the power function with
      gamma = ln 2 / rampup_ratio - 1, and is converted to it.
    - `uniform`: mean over the last `window_images` images; or mean of the weights themselves at `times`, of which the
      last is the time of the average; or, in requests, at the `last_times` latest stored times, which `at_stored_times`
      replaces by `times`.
    - `lr_decay`: gives a run at constant learning rate a decay of the learning rate to 0, of this `shape`, over the
      last `length_images` images, or from `start_images` to the time of the average.
    - `raw`: the weights themselves, without averaging, as in a checkpoint.
    - `sampled`: any piecewise constant weighting. `weights[i]` is the total weight of the images between `times[i - 1]`
      (0 for the first) and `times[i]`, relative to the other entries. The last time is the time of the average.
    - `mixture`: a linear combination of `profiles`, of kinds power, exponential, uniform over `window_images`, or
      lr_decay. `weights` are relative to their sum and may be negative.
    - `basis`: vector `index` of a basis; not an average by itself.
    - `per_tensor`: `default`, except for tensors whose name matches a pattern in `tensors`. The first match applies.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Kind = "power"
    sigma_rel: float | None = None
    gamma: float | None = None
    half_life_images: int | None = Field(default=None, ge=1, le=_MAX_IMAGES)
    rampup_ratio: float | None = Field(default=None, ge=_MIN_RATIO)
    window_images: int | None = Field(default=None, ge=1, le=_MAX_IMAGES)
    last_times: int | None = Field(default=None, ge=1, le=_MAX_TIMES)
    shape: Shape | None = None
    length_images: int | None = Field(default=None, ge=1, le=_MAX_IMAGES)
    start_images: int | None = Field(default=None, ge=0, le=_MAX_IMAGES)
    times: tuple[int, ...] | None = None
    weights: tuple[float, ...] | None = None
    profiles: tuple[Profile, ...] | None = None
    index: int | None = Field(default=None, ge=0)
    default: Profile | None = None
    tensors: tuple[TensorProfile, ...] | None = None

    @classmethod
    def power(cls, sigma_rel: float) -> Profile:
        """The power-function EMA of this relative width. Raises ValueError if no such profile exists."""
        return cls(sigma_rel=sigma_rel)

    @model_validator(mode="wrap")
    @classmethod
    def _share_power_functions(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """A run stores a few power functions many times; each is checked once. Profiles are immutable."""
        match given:
            case {"kind": "power", "sigma_rel": float(sigma_rel), "gamma": float(gamma)} if len(given) == 3:
                key = sigma_rel, gamma
                if (known := _SHARED.get(key)) is None:
                    known = handler(given)
                    if len(_SHARED) < _MOST_SHARED:
                        _SHARED[key] = known
                return known  # type: ignore[return-value]  # Profile has no subclasses
        return handler(given)

    @model_validator(mode="before")
    @classmethod
    def _complete_power_function(cls, given: Any) -> Any:
        """Compute `sigma_rel` from `gamma` or the reverse, and both from a `rampup_ratio` without a half-life."""
        if not isinstance(given, dict):
            return given
        ratio = given.get("rampup_ratio")
        if given.get("kind") == "exponential" and isinstance(ratio, int | float) and set(given) <= _RAMPUP_ONLY:
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
    def _check_times(cls, times: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if times is None:
            return times
        if len(times) > _MAX_TIMES:
            raise ValueError(f"times has {len(times)} entries; a profile takes at most {_MAX_TIMES}")
        if not (times and times[0] > 0 and all(a < b for a, b in pairwise(times))):
            raise ValueError("times must be positive and strictly increasing")
        if times[-1] > _MAX_IMAGES:
            raise ValueError(f"times must be at most {_MAX_IMAGES}")
        return times

    @field_validator("weights")
    @classmethod
    def _check_weights(cls, weights: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if weights is not None and not math.isfinite(sum(map(abs, weights))):
            raise ValueError("weights must have a finite sum; give smaller ones, they are relative to each other")
        return weights

    @field_validator("profiles")
    @classmethod
    def _check_mixed(cls, profiles: tuple[Profile, ...] | None) -> tuple[Profile, ...] | None:
        if profiles is None:
            return profiles
        if not 1 <= len(profiles) <= _MAX_MIXED:
            raise ValueError(f"profiles has {len(profiles)} entries; a mixture takes 1 to {_MAX_MIXED}")
        for profile in profiles:
            if profile.kind not in MIXED_KINDS or (profile.kind == "uniform" and profile.window_images is None):
                raise ValueError(
                    f"profiles of a mixture cannot hold {profile.label}; allowed: power, exponential, uniform over "
                    "window_images, lr_decay"
                )
        if len(set(profiles)) != len(profiles):
            raise ValueError("profiles of a mixture names a profile twice; name each once")
        return profiles

    @field_validator("tensors")
    @classmethod
    def _check_tensors(cls, tensors: tuple[TensorProfile, ...] | None) -> tuple[TensorProfile, ...] | None:
        if tensors is not None and len(tensors) > _MAX_TENSORS:
            raise ValueError(f"tensors has {len(tensors)} patterns; a per_tensor profile takes at most {_MAX_TENSORS}")
        return tensors

    @model_validator(mode="after")
    def _check_fields(self) -> Self:
        given = {name for name, value in self.__dict__.items() if name != "kind" and value is not None}
        needed, optional = _REQUIRED_FIELDS[self.kind], set(_OPTIONAL_FIELDS.get(self.kind, ()))
        if given - optional not in map(set, needed):
            fields = _SUFFICIENT_FIELDS.get(self.kind) or " and ".join(needed[0]) or "no fields"
            raise ValueError(f"a profile of kind {self.kind!r} needs {fields} and no other kind's fields")
        if self.gamma is not None and self.sigma_rel is not None:
            _check_gamma(self.gamma)
            width = sigma_rel_from_gamma(self.gamma)
            if not math.isclose(width, self.sigma_rel, rel_tol=1e-9):
                raise ValueError(
                    f"gamma {self.gamma:g} makes sigma_rel {width:g}, not {self.sigma_rel:g}; give one of the two"
                )
        if self.weights is not None:
            field, weighted = ("times", self.times) if self.profiles is None else ("profiles", self.profiles)
            if weighted is not None and len(weighted) != len(self.weights):
                raise ValueError(f"weights has {len(self.weights)} entries, {field} {len(weighted)}; give one for each")
            if not math.fsum(self.weights) > 0:
                raise ValueError("weights must sum to more than 0")
        if self.default is not None and self.default.kind in ("per_tensor", "basis"):
            raise ValueError(f"default of a per_tensor profile cannot be of kind {self.default.kind!r}")
        return self

    def at_stored_times(self, stored: Sequence[int]) -> Profile:
        """The profile with `times` in place of `last_times`, also in the profiles of tensors; else the same.

        `stored` are the stored times up to that of the average, in rising order. Raises ValueError if they are fewer.
        """
        changed: dict[str, Any] = {}
        if self.last_times is not None:
            if len(stored) < self.last_times:
                raise ValueError(
                    f"last_times {self.last_times} must be at most {len(stored)}, the number of times that are stored "
                    "up to then"
                )
            changed = {"last_times": None, "times": tuple(stored[-self.last_times :])}
        if self.default is not None:
            changed["default"] = self.default.at_stored_times(stored)
        if self.tensors is not None:
            changed["tensors"] = tuple(
                t.model_copy(update={"profile": t.profile.at_stored_times(stored)}) for t in self.tensors
            )
        return self.model_copy(update=changed) if changed else self

    @model_serializer(mode="wrap")
    def _omit_unset_fields(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Equal profiles give equal bytes, also those that versions with fewer kinds have written."""
        return {name: value for name, value in handler(self).items() if value is not None}

    def __eq__(self, other: object) -> bool:
        return self._identity == other._identity if isinstance(other, Profile) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in _IDENTITY)

    @property
    def identity(self) -> dict[str, Any]:
        """The profile as JSON without `gamma`. Two profiles are equal if and only if their identities are."""
        found: dict[str, Any] = _without_gamma(self.model_dump(mode="json"))
        return found

    @property
    def key(self) -> str:
        """Canonical text of the identity."""
        return json.dumps(self.identity, sort_keys=True, separators=(",", ":"))

    @property
    def label(self) -> str:
        """Short text for people and file names. Different profiles may have the same label."""
        match self.kind:
            case "power":
                return f"{self.sigma_rel:g}"
            case "exponential":
                return "ema"
            case "uniform" if self.window_images is None:
                return f"mean-of-{self.last_times or len(self.times or ())}-times"
            case "uniform":
                return f"mean-{self.window_images}"
            case "lr_decay" if self.length_images is None:
                return f"decay-{self.shape}-from-{self.start_images}"
            case "lr_decay":
                return f"decay-{self.shape}-{self.length_images}"
            case "mixture":
                return f"mixture-of-{len(self.profiles or ())}"
            case "basis":
                return f"basis-{self.index}"
            case "per_tensor":
                return f"{self.default.label if self.default else ''}-per-tensor"
            case _:
                return self.kind


class TensorProfile(BaseModel):
    """The profile of the tensors whose name matches `pattern` (shell wildcards, case-sensitive)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pattern: str = Field(min_length=1, max_length=MAX_PATTERN_CHARACTERS)
    profile: Profile

    @model_validator(mode="after")
    def _check_profile(self) -> Self:
        if self.profile.kind in ("per_tensor", "basis"):
            raise ValueError(f"the profile of a pattern cannot be of kind {self.profile.kind!r}")
        return self


_IDENTITY = tuple(name for name in Profile.model_fields if name != "gamma")


def _without_gamma(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_gamma(entry) for name, entry in value.items() if name != "gamma"}
    return [_without_gamma(entry) for entry in value] if isinstance(value, list) else value


def shown(value: float) -> str:
    """A number for error messages. Integers may be too large to be formatted as a float."""
    try:
        return f"{value:g}"
    except OverflowError:
        return "with hundreds of digits"


def _check_gamma(gamma: float) -> None:
    if gamma > _MAX_GAMMA:
        raise ValueError(f"gamma {shown(gamma)} must be at most {_MAX_GAMMA:g}")
