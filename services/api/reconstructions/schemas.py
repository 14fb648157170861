"""Reconstructions and their plans as JSON."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from phema.services.api.http.schema_base import MAX_COUNT, RequestModel, ResponseModel, Timestamp
from phema.services.api.jobs.schemas import Job
from phema.shared.catalog import JobState
from phema.shared.recipes.run_config import SIGMA_REL_LIMIT
from phema.shared.snapshots.profile import MIN_SIGMA_REL, Profile, TensorProfile, shown
from phema.shared.submissions.reconstructions import ReconstructionRequest

MAX_OUTPUTS = 256
MAX_PLAIN_PROFILES = 1_024
"""For all outputs of a request together, each pattern of a `per_tensor` profile and each part of a mixture counted."""
MAX_POINTS = 2_048
"""Times of all `sampled` profiles of a request together. A plan takes about 1 ms of CPU and 40 kB for each."""

Dtype = Literal["float32", "float16", "bfloat16"]


def _sigma_rels(given: Any) -> tuple[float, ...]:
    """Validate one σ_rel or a list of distinct ones. Raises ValueError."""
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


class WantedAverages(RequestModel):
    """Averages of a run, by `sigma_rel` or `profiles` (exactly one of them), and their time. Base of requests."""

    sigma_rel: SigmaRels | None = Field(
        default=None, description="Relative width of the wanted EMA, or a list of widths; exact values."
    )
    profiles: tuple[Profile, ...] | None = Field(
        default=None,
        json_schema_extra=_SOME,
        description="Wanted profiles of any kind except `basis`: power functions by `sigma_rel` or `gamma`; "
        "`exponential` by `half_life_images` or by `rampup_ratio` (alone, it is a power function with gamma = ln 2 / "
        "rampup_ratio - 1); `uniform`, the mean of the last `window_images`, or of the weights at `times` or at the "
        "`last_times` latest stored times; `lr_decay`, a learning-rate decay of this `shape` over the last "
        "`length_images` or from `start_images`; `sampled` weights between times; "
        "`mixture`, a linear combination of `profiles` with `weights`; `raw`, the weights themselves; and "
        "`per_tensor`.",
    )
    tensors: tuple[TensorProfile, ...] | None = Field(
        default=None,
        json_schema_extra=_SOME,
        description="Profiles for tensors whose names match a pattern (`*`, `?`, `[...]`; the first match counts). "
        "All other tensors get the one profile of `sigma_rel` or `profiles`.",
    )
    num_images: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = Field(
        default=None,
        description="A time with a snapshot. By default the latest time at which every tracked EMA is stored, or the "
        "last time of a `sampled` profile.",
    )
    regularize: bool = Field(
        default=True,
        description="Take the rounding of the stored weights into account; `false` is plain least squares as in the "
        "paper, with coefficients divided by their sum.",
    )
    tolerance: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="Sufficient predicted relative error, so that fewer snapshots are read. By default the plan is as "
        "good as with all snapshots.",
    )

    @field_validator("profiles", "tensors")
    @classmethod
    def _some(cls, given: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        # Checked here, because pydantic counts only the valid items when some are wrong.
        if given is not None and not 1 <= len(given) <= MAX_OUTPUTS:
            raise ValueError(f"must name 1 to {MAX_OUTPUTS} profiles, got {len(given)}")
        return given

    @field_validator("profiles")
    @classmethod
    def _distinct_averages(cls, profiles: tuple[Profile, ...] | None) -> tuple[Profile, ...] | None:
        seen: set[Profile] = set()
        for index, profile in enumerate(profiles or ()):
            if profile.kind == "basis":
                raise ValueError(f"holds a basis at place {index}, which is no average; name another kind")
            if profile in seen:
                raise ValueError(f"names {profile.label} twice; name each profile once")
            seen.add(profile)
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

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        """What all profiles cost together is bounded, before any of it is computed."""
        asked = [*(self.profiles or ()), *(tensor.profile for tensor in self.tensors or ())]
        plain = [part for p in asked for part in (p.default or p, *(t.profile for t in p.tensors or ()))]
        count = sum(len(profile.profiles or (profile,)) for profile in plain)
        if count > MAX_PLAIN_PROFILES:
            raise ValueError(
                f"profiles and their patterns name {count:,} averages together; a request takes at most "
                f"{MAX_PLAIN_PROFILES:,}; ask in several requests"
            )
        points = sum(len(profile.times or ()) or profile.last_times or 0 for profile in plain)
        if points > MAX_POINTS:
            raise ValueError(
                f"the profiles have {points:,} times together; a request takes at most {MAX_POINTS:,}; ask in "
                "several requests"
            )
        return self

    @property
    def field(self) -> str:
        """The field that names the wanted averages."""
        return "sigma_rel" if self.sigma_rel is not None else "profiles"

    @property
    def request(self) -> ReconstructionRequest:
        return ReconstructionRequest(
            self.wanted,
            self.num_images,
            regularize=self.regularize,
            tolerance=self.tolerance,
            field=self.field,
        )

    @property
    def pattern_lists(self) -> list[tuple[str, tuple[TensorProfile, ...]]]:
        """The lists of patterns, each with its path in the body."""
        of_profiles = [(f"profiles.{i}.tensors", profile.tensors) for i, profile in enumerate(self.profiles or ())]
        return [(path, tensors) for path, tensors in [("tensors", self.tensors), *of_profiles] if tensors]

    @property
    def wanted(self) -> tuple[Profile, ...]:
        """The profile of each output, in order."""
        plain = self.profiles or tuple(map(Profile.power, self.sigma_rel or ()))
        if self.tensors is None:
            return plain
        return (Profile(kind="per_tensor", default=plain[0], tensors=self.tensors),)


class ReconstructionCreate(WantedAverages):
    """The wanted averages, by `sigma_rel` or `profiles` (exactly one of them), and their time."""

    dtype: Dtype = Field(default="float32", description="Dtype of the weights in the file.")
    plan_only: bool = Field(
        default=False, description="Return what would be read and the predicted errors; do nothing."
    )

    @property
    def request(self) -> ReconstructionRequest:
        return replace(super().request, dtype=self.dtype)


class PlannedSnapshot(ResponseModel):
    """A snapshot, or a vector of the plan's basis."""

    id: str | None = Field(description="Null when it was deleted and the catalog was rebuilt afterwards.")
    num_images: int
    profile: dict[str, Any] = Field(description="How it averages the training history: `kind` and its fields.")
    sigma_rel: float | None = Field(description="Relative width of a power-function EMA; null for other kinds.")


class PredictedErrors(ResponseModel):
    """Errors predicted from the coefficients; all are relative."""

    profile_error: float | None = Field(
        description="L2 distance of the reconstructed from the wanted profile; null with raw weights."
    )
    rounding_error: float | None = Field(
        description="Error from the rounding of the stored weights, relative to the weights; null for reconstructions "
        "planned by versions that did not compute it."
    )
    predicted_error: float = Field(
        description="Expected L2 distance of the weights from the wanted average, relative to the weights."
    )
    noise_gain: float = Field(description="Euclidean norm of the coefficients: how much they amplify storage rounding.")


class TensorCoefficients(PredictedErrors):
    """Coefficients for the tensors whose names match a pattern."""

    pattern: str = Field(description="Pattern of tensor names; the first match of the list counts.")
    profile: dict[str, Any] = Field(description="`kind` and its fields.")
    label: str = Field(description="Short name of the profile, for people.")
    coefficients: list[float] = Field(description="One per snapshot, in the order of `snapshots`.")


class LearningRateMultiplier(ResponseModel):
    """By what the average multiplies the learning rate of the training at one time."""

    num_images: int
    multiplier: float


class PlannedOutput(PredictedErrors):
    profile: dict[str, Any] = Field(description="`kind` and its fields.")
    label: str = Field(description="Short name of the profile, for people; not unique.")
    sigma_rel: float | None = Field(description="Relative width of a power-function EMA; null for other kinds.")
    coefficients: list[float] = Field(description="One per snapshot of the plan, in the order of `snapshots`.")
    advice: str | None = Field(description="Why the fit is poor and what would improve it; null for a good fit.")
    learning_rate: list[LearningRateMultiplier] = Field(
        description="The schedule that the average stands for, at 50, 75, 90 and 95 % of the time: averaging scales "
        "the update made at each time as a decay of the learning rate would. 1 - (num_images / time)^(gamma + 1) for a "
        "power function."
    )
    tensors: list[TensorCoefficients] = Field(
        description="For a `per_tensor` profile: the tensors that do not have its default profile."
    )


class Plan(ResponseModel):
    """What a reconstruction would read, and its predicted errors. Computed without reading any weights."""

    num_images: int
    snapshots: list[PlannedSnapshot]
    outputs: list[PlannedOutput]
    bytes_to_read: int
    seconds: float | None = Field(
        description="Time to read them at the speed of the latest reconstructions; null before the first one."
    )
    calibrated: bool = Field(
        description="Whether the errors are calibrated with the run's own snapshots; otherwise with typical values."
    )
    basis_id: str | None = Field(description="The basis that is read instead of snapshots; null if none.")


class Reconstruction(PredictedErrors):
    """The weights of one average, chosen after training."""

    id: str
    run_id: str
    state: JobState
    num_images: int
    profile: dict[str, Any] = Field(description="`kind` and its fields.")
    label: str = Field(description="Short name of the profile, for people; not unique.")
    sigma_rel: float | None = Field(description="Relative width of a power-function EMA; null for other kinds.")
    dtype: Dtype
    regularize: bool = Field(description="False for plain least squares.")
    advice: str | None = Field(description="Why the fit is poor and what would improve it; null for a good fit.")
    job_id: str | None
    error: str | None
    size: int | None = Field(description="Bytes of the file; null until it is stored.")
    sha256: str | None
    created_at: Timestamp


class UsedSnapshot(PlannedSnapshot):
    sha256: str


class ReconstructionDetail(Reconstruction):
    """A reconstruction with its lineage."""

    snapshots: list[UsedSnapshot]
    coefficients: list[float] = Field(description="One per snapshot, in the order of `snapshots`.")
    tensors: list[TensorCoefficients] = Field(
        description="For a `per_tensor` profile: the tensors that do not have its default profile."
    )
    basis_id: str | None = Field(description="The basis whose vectors were read instead of snapshots; null if none.")


class ReconstructionsAccepted(ResponseModel):
    """The wanted outputs, in the order of the request, and the job that makes the new ones."""

    job: Job | None = Field(description="Null when no new job was needed; each output names the job that makes it.")
    reconstructions: list[Reconstruction]
