"""Plans a basis: a few combinations of a run's snapshots that replace all of them. Reads no weights. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from phema.shared.edm2.averaging.basis import Basis, expected_products, find_basis
from phema.shared.edm2.averaging.posthoc import WeightErrorFit
from phema.shared.edm2.averaging.random_walk import RandomWalk
from phema.shared.edm2.averaging.weightings import PowerWeighting, Weighting
from phema.shared.snapshots.files.header import DTYPE_CODES, ITEM_BYTES, StoredDtype
from phema.shared.snapshots.planning.advice import StorageSummary, summarize_storage
from phema.shared.snapshots.planning.calibration import Calibration, calibrate
from phema.shared.snapshots.planning.candidate_snapshots import candidates
from phema.shared.snapshots.planning.profile_weighting import weighting
from phema.shared.snapshots.planning.reconstruction_times import PlanError, choose_time
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile

_FAMILY = 48
"""Number of profiles, evenly spaced in the logarithm of sigma_rel, that represent a whole range of sigma_rel."""


class BasisPlan(BaseModel):
    """A basis, and what is needed to make profiles from it and to predict their errors. Stored as JSON in its row."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_images: int
    sigma_rel_min: float
    sigma_rel_max: float
    tolerance: float
    error: float
    """Largest expected error, relative to the weights, that the basis adds to a profile of the range."""
    snapshots: tuple[StoredSnapshot, ...]
    """The inputs. They may be deleted once the basis exists; its predicted errors do not depend on them any more."""
    vectors: tuple[tuple[float, ...], ...]
    """[vectors, snapshots] coefficients, in the order of `snapshots`."""
    variance: float
    """This field and the fields below are those of `calibration()`."""
    exponent: float
    rms: float
    rounding: dict[StoredDtype, float]
    calibrated: bool
    update_images: int | None = None
    profiles: tuple[Profile, ...] = ()
    """Profiles that the basis covers besides power functions of its range."""

    @model_serializer(mode="wrap")
    def _omit_no_profiles(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Plans without them have the JSON that versions without this field write."""
        fields: dict[str, Any] = handler(self)
        return fields if self.profiles else {name: value for name, value in fields.items() if name != "profiles"}

    @property
    def bytes_to_read(self) -> int:
        return sum(s.size for s in self.snapshots)

    @property
    def bytes_to_store(self) -> int:
        """About the size of all vectors, in float32."""
        size = max(s.size * ITEM_BYTES["F32"] // ITEM_BYTES[DTYPE_CODES[s.dtype]] for s in self.snapshots)
        return len(self.vectors) * size

    @classmethod
    def from_lineage(cls, num_images: int, lineage: Mapping[str, Any], snapshot_ids: Mapping[str, str]) -> Self:
        """The plan that the file of a vector records. `snapshot_ids`: ids by SHA-256, of snapshots that still exist.

        Raises KeyError, TypeError and ValueError for a malformed lineage.
        """
        snapshots = [
            {**entry, "id": snapshot_ids.get(entry["sha256"], f"gone-{entry['sha256'][:16]}")}
            for entry in lineage["snapshots"]
        ]
        return cls.model_validate({**lineage, "num_images": num_images, "snapshots": snapshots})

    def lineage(self) -> dict[str, Any]:
        """JSON for the metadata of every vector's file, from which `from_lineage` restores the whole plan.

        The file records its time itself; ids are left out, because the catalog may assign new ones.
        """
        return self.model_dump(mode="json", exclude={"num_images": True, "snapshots": {"__all__": {"id"}}})

    def covers(
        self,
        num_images: int,
        *,
        sigma_rel_min: float,
        sigma_rel_max: float,
        tolerance: float,
        profiles: Sequence[Profile] = (),
    ) -> bool:
        """Whether the basis answers a request for a basis. The snapshots it was made of may be deleted by now."""
        return (
            self.num_images == num_images
            and self.sigma_rel_min <= sigma_rel_min
            and self.sigma_rel_max >= sigma_rel_max
            and self.tolerance <= tolerance
            and set(self.profiles).issuperset(profiles)
        )

    def calibration(self) -> Calibration:
        movement = RandomWalk(self.variance, self.exponent, float(self.num_images))
        return Calibration(movement, self.rms, self.rounding, self.calibrated, self.update_images)

    def storage_summary(self) -> StorageSummary:
        """For advice."""
        return replace(summarize_storage(self.snapshots), basis_range=(self.sigma_rel_min, self.sigma_rel_max))

    def basis(self) -> Basis:
        return Basis(np.array(self.vectors), _metric(self.snapshots, self.calibration()), self.error)


class BasisSummary(BaseModel):
    """The fields of a stored BasisPlan that lists of bases show. Reading them is cheap, however long the plan."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    error: float
    vectors: list[Any]
    profiles: list[dict[str, Any]] = []


@dataclass(frozen=True)
class StoredBasis:
    """A basis whose vectors are in the store."""

    id: str
    plan: BasisPlan
    vectors: tuple[StoredSnapshot, ...]
    """In float32, with profiles of kind `basis`, in the order of `plan.vectors`."""

    @property
    def num_images(self) -> int:
        return self.plan.num_images


def plan_basis(
    stored: Sequence[StoredSnapshot],
    *,
    num_images: int | None = None,
    sigma_rel_min: float,
    sigma_rel_max: float,
    tolerance: float,
    probes: Mapping[str, bytes] | None = None,
    update_images: int | None = None,
    profiles: Sequence[Profile] = (),
    calibrator: Callable[[Sequence[StoredSnapshot]], Calibration] | None = None,
) -> BasisPlan:
    """The smallest basis that adds at most `tolerance` to the relative error of any power profile of the range.

    `num_images`: None is the latest time. `profiles`: others for which the same holds. `probes`: a sample of the
    weights by snapshot id. `update_images`: images between two updates of the averages. `calibrator`: called instead of
    `calibrate` with these two.

    Raises NoSnapshots, NoSnapshotAtTime, PlanError for an impossible range or tolerance, and
    WeightingError for a profile that is impossible at this time.
    """
    if not tolerance > 0:
        raise PlanError(f"tolerance {tolerance:g} must be above 0")
    if not 0 < sigma_rel_min < sigma_rel_max:
        raise PlanError(f"sigma_rel_min {sigma_rel_min:g} must be above 0 and below sigma_rel_max {sigma_rel_max:g}")
    time = choose_time((s.num_images for s in stored), num_images)
    known = sorted((s for s in stored if s.num_images <= time), key=lambda s: s.order)
    calibration = calibrator(known) if calibrator else calibrate(known, probes or {}, update_images=update_images)
    try:
        family: list[Weighting] = [
            PowerWeighting(time, float(s)) for s in np.geomspace(sigma_rel_min, sigma_rel_max, _FAMILY)
        ]
    except ValueError as error:
        raise PlanError(f"sigma_rel_max {sigma_rel_max:g} is impossible: {error}") from error
    family += [weighting(profile, time) for profile in profiles]
    inputs = candidates(known, family)
    stored_weightings = [weighting(s.profile, s.num_images) for s in inputs]
    noise = calibration.noise(inputs)
    coefficients = WeightErrorFit(stored_weightings, family, movement=calibration.movement, noise=noise).solve()
    found = find_basis(coefficients, _metric(inputs, calibration), tolerance)
    return BasisPlan(
        num_images=time,
        sigma_rel_min=sigma_rel_min,
        sigma_rel_max=sigma_rel_max,
        tolerance=tolerance,
        error=found.error,
        snapshots=tuple(inputs),
        vectors=tuple(tuple(map(float, row)) for row in found.vectors),
        variance=calibration.movement.variance,
        exponent=calibration.movement.exponent,
        rms=calibration.rms,
        rounding=dict(calibration.rounding),
        calibrated=calibration.calibrated,
        update_images=calibration.update_images,
        profiles=tuple(profiles),
    )


def _metric(inputs: Sequence[StoredSnapshot], calibration: Calibration) -> np.ndarray:
    profiles = [weighting(s.profile, s.num_images) for s in inputs]
    return expected_products(
        profiles, movement=calibration.movement, noise=calibration.noise(inputs), rms=calibration.rms
    )
