"""The plan of one reconstruction as JSON: the catalog stores it in the row, the file of the weights as its lineage.

Both forms have the same fields; the lineage leaves out the keys and sizes of objects. Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer, model_validator

from phema.shared.snapshots.files.header import StoredDtype
from phema.shared.snapshots.planning.plan import Plan, PlannedOutput, TensorCoefficients
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile

_STORED_AS_NULL = {"profile_error", "rounding_error"}
"""Fields whose None is written as null. Every other field that is None is left out."""


class _StoredJson(BaseModel):
    """Writes exactly the JSON that it was read from, because content keys and files depend on it.

    Fields that this version does not know are kept.
    """

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    @model_serializer(mode="wrap")
    def _without_missing_fields(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        return {name: value for name, value in fields.items() if value is not None or name in _STORED_AS_NULL}

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


class SnapshotReference(_StoredJson):
    """An input of a reconstruction: a snapshot, or a vector of a basis. Fields are None where they are not recorded."""

    id: str | None = None
    """None when retention had deleted the snapshot before `phema db rebuild` wrote the row."""
    num_images: int
    profile: Profile
    key: str | None = None
    size: int | None = None
    sha256: str
    dtype: StoredDtype | None = None

    @model_validator(mode="before")
    @classmethod
    def _read_sigma_rel(cls, given: Any) -> Any:
        """Files of the first version name sigma_rel instead of a profile."""
        if not isinstance(given, dict) or "profile" in given or "sigma_rel" not in given:
            return given
        rest = {name: value for name, value in given.items() if name != "sigma_rel"}
        return rest | {"profile": {"sigma_rel": given["sigma_rel"]}}

    @classmethod
    def of(cls, snapshot: StoredSnapshot) -> Self:
        return cls(**vars(snapshot))

    def snapshot(self) -> StoredSnapshot:
        """The snapshot to read. Raises ValueError when the reference does not say where the snapshot is."""
        if self.id is None or self.key is None or self.size is None:
            raise ValueError(f"snapshot {self.sha256} at {self.num_images} images is no longer stored")
        dtype = self.dtype or "float32"
        return StoredSnapshot(self.id, self.num_images, self.profile, self.key, self.size, self.sha256, dtype)


class StoredTensorCoefficients(_StoredJson):
    """Coefficients of the tensors whose name matches `pattern`, in the order of the plan's snapshots."""

    pattern: str
    profile: Profile
    coefficients: tuple[float, ...]
    profile_error: float | None
    rounding_error: float | None
    predicted_error: float
    noise_gain: float

    @classmethod
    def of(cls, tensors: TensorCoefficients) -> Self:
        return cls(
            pattern=tensors.pattern,
            profile=tensors.profile,
            coefficients=tensors.coefficients,
            **asdict(tensors.errors),
        )


class PlanSummary(BaseModel):
    """The fields of a stored plan that lists of reconstructions show. Reading them is cheap, however long the plan."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    profile_error: float | None
    rounding_error: float | None
    predicted_error: float
    noise_gain: float
    regularize: bool | None = None
    advice: str | None = None

    @property
    def regularized(self) -> bool:
        """False for the paper's plain least squares."""
        return self.regularize is not False


class StoredPlan(_StoredJson):
    """The plan of one reconstruction: its inputs, their coefficients and the predicted errors."""

    snapshots: tuple[SnapshotReference, ...]
    """In order of time."""
    coefficients: tuple[float, ...]
    """One per snapshot."""
    profile_error: float | None
    rounding_error: float | None
    predicted_error: float
    noise_gain: float
    regularize: bool | None = None
    """False for plain least squares. Rows of early versions lack it."""
    calibrated: bool | None = None
    """Rows of early versions lack it."""
    advice: str | None = None
    basis_id: str | None = None
    """The basis whose vectors are read instead of snapshots."""
    tensors: tuple[StoredTensorCoefficients, ...] | None = None
    """Of a per-tensor profile."""

    @model_validator(mode="after")
    def _one_coefficient_per_snapshot(self) -> Self:
        for coefficients in (self.coefficients, *(tensors.coefficients for tensors in self.tensors or ())):
            if len(coefficients) != len(self.snapshots):
                raise ValueError(f"{len(coefficients)} coefficients for {len(self.snapshots)} snapshots")
        return self

    @classmethod
    def of(cls, planned: Plan, output: PlannedOutput, *, regularize: bool) -> Self:
        """One output's part of a plan, without snapshots that this output does not use.

        The row therefore does not depend on which other outputs were requested together with it.
        """
        columns = zip(output.coefficients, *(tensor.coefficients for tensor in output.tensors), strict=True)
        used = [i for i, column in enumerate(columns) if any(column)]
        tensors = [
            StoredTensorCoefficients.of(tensor).model_copy(
                update={"coefficients": tuple(tensor.coefficients[i] for i in used)}
            )
            for tensor in output.tensors
        ]
        return cls(
            snapshots=tuple(SnapshotReference.of(planned.snapshots[i]) for i in used),
            coefficients=tuple(output.coefficients[i] for i in used),
            **asdict(output.errors),
            regularize=regularize,
            calibrated=planned.calibrated,
            advice=output.advice,
            basis_id=planned.basis_id,
            tensors=tuple(tensors) or None,
        )

    @classmethod
    def from_lineage(cls, lineage: Mapping[str, Any]) -> Self:
        """The plan that a file's metadata records. Raises pydantic.ValidationError for a malformed one.

        Files of the first version record one error, the profile's, and were solved by plain least squares.
        """
        first_version = {"profile_error": lineage.get("predicted_error"), "rounding_error": None, "regularize": False}
        return cls.model_validate(first_version | dict(lineage))

    def lineage(self) -> dict[str, Any]:
        """JSON for the metadata of the reconstruction's file: the plan without keys and sizes of objects."""
        snapshots = tuple(s.model_copy(update={"key": None, "size": None}) for s in self.snapshots)
        return self.model_copy(update={"snapshots": snapshots}).to_json()


def planned_snapshot_ids(plan: Mapping[str, Any]) -> set[str]:
    """Ids of the snapshots that the stored plan of a reconstruction or a basis reads.

    It parses no profiles, so it is cheap for long plans.
    """
    return {snapshot["id"] for snapshot in plan["snapshots"] if "id" in snapshot}
