"""Reconstructions and their plans as JSON."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from phema.services.api.http.schema_base import MAX_COUNT, RequestModel, ResponseModel, Timestamp
from phema.services.api.jobs.schemas import Job
from phema.shared.catalog import JobState
from phema.shared.recipes.run_config import SIGMA_REL_LIMIT
from phema.shared.snapshots.profile import MIN_SIGMA_REL, Profile, TensorProfile, shown

MAX_OUTPUTS = 256

Dtype = Literal["float32", "float16", "bfloat16"]


def _sigma_rels(given: Any) -> tuple[float, ...]:
    """One number or a list of them, as distinct possible widths. Raises ValueError."""
    values = given if isinstance(given, list | tuple) else [given]
    if not 1 <= len(values) <= MAX_OUTPUTS:
        raise ValueError(f"must name 1 to {MAX_OUTPUTS} profiles, got {len(values)}")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            raise ValueError(f"must be a number or a list of numbers, got {value!r}")
        if not 0 < value < SIGMA_REL_LIMIT:
            raise ValueError(
                f"{shown(value)} is impossible: a power-function EMA has 0 < sigma_rel < 1/sqrt(12) = "
                f"{SIGMA_REL_LIMIT:.4f}"
            )
        if value < MIN_SIGMA_REL:
            raise ValueError(f"{value:g} must be at least {MIN_SIGMA_REL:g}")
    if len(set(values)) != len(values):
        raise ValueError(f"{list(values)} names a profile twice")
    return tuple(map(float, values))


_NUMBER = {"type": "number", "minimum": MIN_SIGMA_REL, "exclusiveMaximum": SIGMA_REL_LIMIT}
SigmaRels = Annotated[
    tuple[float, ...],
    BeforeValidator(_sigma_rels),
    WithJsonSchema(
        {"anyOf": [_NUMBER, {"type": "array", "items": _NUMBER, "minItems": 1, "maxItems": MAX_OUTPUTS}]},
        mode="validation",
    ),
]


_SOME: dict[str, Any] = {"minItems": 1, "maxItems": MAX_OUTPUTS}


class ReconstructionCreate(RequestModel):
    """Which averages are wanted, and of what time: `sigma_rel` or `profiles`, one of the two."""

    sigma_rel: SigmaRels | None = Field(
        default=None, description="Relative width of the wanted EMA, or a list of them; exact values."
    )
    profiles: tuple[Profile, ...] | None = Field(
        default=None,
        json_schema_extra=_SOME,
        description="Wanted profiles of any kind but `basis`: power functions by `sigma_rel` or `gamma`, `exponential` "
        "ones by `half_life_images` or by `rampup_ratio` (alone it is a power function of gamma ln 2 / rampup_ratio - "
        "1), the `uniform` mean of the last `window_images`, `sampled` weights between times, `raw`: the weights "
        "themselves, and `per_tensor`.",
    )
    tensors: tuple[TensorProfile, ...] | None = Field(
        default=None,
        json_schema_extra=_SOME,
        description="Tensors with a profile of their own, by patterns of their names (`*`, `?`, `[...]`; the first "
        "that matches counts). All others have the one profile of `sigma_rel` or `profiles`.",
    )
    num_images: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = Field(
        default=None,
        description="A time with a snapshot; absent for the latest that has every tracked EMA, or for the last time of "
        "a `sampled` profile.",
    )
    dtype: Dtype = Field(default="float32", description="Type of the weights in the file.")
    regularize: bool = Field(
        default=True,
        description="Weigh the fit of the profile against the rounding of the stored weights; `false` is the paper's "
        "plain least squares.",
    )
    tolerance: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="Predicted relative error that is good enough: fewer snapshots are read. Absent: as good as with "
        "all of them.",
    )
    plan_only: bool = Field(
        default=False, description="Answer what would be read and how exact it would be; do nothing."
    )

    @field_validator("profiles", "tensors")
    @classmethod
    def _some(cls, given: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        # Here, because pydantic counts what is left when some of them are wrong.
        if given is not None and not 1 <= len(given) <= MAX_OUTPUTS:
            raise ValueError(f"must name 1 to {MAX_OUTPUTS} profiles, got {len(given)}")
        return given

    @field_validator("profiles")
    @classmethod
    def _distinct_averages(cls, profiles: tuple[Profile, ...] | None) -> tuple[Profile, ...] | None:
        for index, profile in enumerate(profiles or ()):
            if profile.kind == "basis":
                raise ValueError(f"holds a basis at place {index}, which is no average; name another kind")
            if profile in (profiles or ())[:index]:
                raise ValueError(f"names {profile.label} twice; name each profile once")
        return profiles

    @model_validator(mode="after")
    def _one_way_of_asking(self) -> Self:
        if self.sigma_rel is None and self.profiles is None:
            raise ValueError("sigma_rel is missing; give sigma_rel, or profiles of any kind")
        if self.sigma_rel is not None and self.profiles is not None:
            raise ValueError("sigma_rel and profiles both say what is wanted; give one of them")
        if self.tensors is not None:
            count = len(self.sigma_rel or self.profiles or ())
            if count != 1:
                raise ValueError(f"tensors goes with exactly one profile for all other tensors, got {count}")
            if self.profiles is not None and self.profiles[0].kind == "per_tensor":
                raise ValueError("tensors and a per_tensor profile both name tensors; give one of them")
        return self

    @property
    def field(self) -> str:
        """The one that says what is wanted."""
        return "sigma_rel" if self.sigma_rel is not None else "profiles"

    @property
    def wanted(self) -> tuple[Profile, ...]:
        """The profile of each output, in order."""
        plain = self.profiles or tuple(map(Profile.power, self.sigma_rel or ()))
        if self.tensors is None:
            return plain
        return (Profile(kind="per_tensor", default=plain[0], tensors=self.tensors),)


class PlannedSnapshot(ResponseModel):
    """A snapshot, or a vector of the plan's basis."""

    id: str | None = Field(description="Null when it is gone and the catalog was written anew since.")
    num_images: int
    profile: dict[str, Any] = Field(description="How it averages the history: `kind` and that kind's fields.")
    sigma_rel: float | None = Field(description="Of a power-function EMA, otherwise null.")


class Errors(ResponseModel):
    """What coefficients promise; all are relative."""

    profile_error: float | None = Field(
        description="L2 distance of the reconstructed from the wanted profile; null where raw weights take part."
    )
    rounding_error: float | None = Field(
        description="What the rounding of the stored weights adds up to, relative to the weights; null for one that "
        "was planned before this was known."
    )
    predicted_error: float = Field(
        description="Expected L2 distance of the weights from the wanted average, relative to the weights."
    )
    noise_gain: float = Field(description="Euclidean norm of the coefficients: amplification of storage rounding.")


class TensorCoefficients(Errors):
    """Tensors with a profile of their own."""

    pattern: str = Field(description="Of names; the first of the list that matches counts.")
    profile: dict[str, Any] = Field(description="`kind` and that kind's fields.")
    label: str = Field(description="The profile in short, for people.")
    coefficients: list[float] = Field(description="One per snapshot, in their order.")


class PlannedOutput(Errors):
    profile: dict[str, Any] = Field(description="`kind` and that kind's fields.")
    label: str = Field(description="The profile in short, for people; different ones may share it.")
    sigma_rel: float | None = Field(description="Of a power-function EMA, otherwise null.")
    coefficients: list[float] = Field(description="One per snapshot of the plan, in its order.")
    advice: str | None = Field(description="Why the fit is poor and what would mend it; null for a good one.")
    tensors: list[TensorCoefficients] = Field(description="Of a per-tensor profile: all that is not its default.")


class Plan(ResponseModel):
    """What a reconstruction would read and give, known without reading any weights."""

    num_images: int
    snapshots: list[PlannedSnapshot]
    outputs: list[PlannedOutput]
    bytes_to_read: int
    seconds: float | None = Field(
        description="Time to read them, at the speed of the latest reconstructions; null before there was one."
    )
    calibrated: bool = Field(
        description="Whether the run's own snapshots told how much its weights move; otherwise a usual amount is taken."
    )
    basis_id: str | None = Field(description="The basis that is read instead of snapshots, if any.")


class Reconstruction(Errors):
    """Weights of one average, chosen after training."""

    id: str
    run_id: str
    state: JobState
    num_images: int
    profile: dict[str, Any] = Field(description="`kind` and that kind's fields.")
    label: str = Field(description="The profile in short, for people; different ones may share it.")
    sigma_rel: float | None = Field(description="Of a power-function EMA, otherwise null.")
    dtype: Dtype
    regularize: bool = Field(description="False for the paper's plain least squares.")
    advice: str | None = Field(description="Why the fit is poor and what would mend it; null for a good one.")
    job_id: str | None
    error: str | None
    size: int | None = Field(description="Bytes of the file; null until it is done.")
    sha256: str | None
    created_at: Timestamp


class UsedSnapshot(PlannedSnapshot):
    sha256: str


class ReconstructionDetail(Reconstruction):
    """A reconstruction with its lineage."""

    snapshots: list[UsedSnapshot]
    coefficients: list[float] = Field(description="One per snapshot, in their order.")
    tensors: list[TensorCoefficients] = Field(description="Of a per-tensor profile: all that is not its default.")
    basis_id: str | None = Field(description="The basis whose vectors were read instead of snapshots.")


class ReconstructionsAccepted(ResponseModel):
    """The wanted outputs, in the order asked for, and the job that makes those nobody had asked for before."""

    job: Job | None = Field(description="Null when no new work was needed; each output names the job that makes it.")
    reconstructions: list[Reconstruction]
