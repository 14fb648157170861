"""What `phema.open(…)` answers with. Plans are those of the client, so that programs can use either. Torch-free."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from phema.client import average_models
from phema.shared.snapshots.planning.basis_plan import BasisPlan, StoredBasis
from phema.shared.snapshots.planning.learning_rate import learning_rate_multipliers
from phema.shared.snapshots.planning.plan import Plan, PlannedOutput
from phema.shared.snapshots.planning.stored_plan import StoredTensorCoefficients
from phema.shared.snapshots.profile import Profile


@dataclass(frozen=True)
class ReconstructedFile:
    """One reconstruction on disk. The file's metadata holds its full lineage (`phema.metadata`)."""

    path: Path
    num_images: int
    profile: Profile
    dtype: str
    size: int
    sha256: str
    predicted_error: float
    """Expected relative L2 distance of the weights from the wanted average."""
    profile_error: float | None
    rounding_error: float | None
    noise_gain: float
    advice: str | None
    """Why the fit is poor and how to improve it; None for a good fit."""

    @property
    def label(self) -> str:
        return self.profile.label

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"path": str(self.path), "profile": self.profile.model_dump(mode="json")}


@dataclass(frozen=True)
class DamagedFile:
    """A file that is missing or does not hold the bytes that were written. `problem` is one sentence."""

    key: str
    """Its path below the folder or bucket."""
    problem: str


@dataclass(frozen=True)
class Verification:
    """What `verify` has read."""

    files: int
    bytes: int
    damaged: tuple[DamagedFile, ...]

    @property
    def sound(self) -> bool:
        return not self.damaged


def plan_answer(planned: Plan) -> average_models.Plan:
    """The plan as the client returns it."""
    return average_models.Plan.model_validate(
        {
            "num_images": planned.num_images,
            "snapshots": [
                {
                    "id": s.id,
                    "num_images": s.num_images,
                    "profile": s.profile.model_dump(mode="json"),
                    "sigma_rel": s.profile.sigma_rel,
                }
                for s in planned.snapshots
            ],
            "outputs": [_output_answer(output, planned.num_images) for output in planned.outputs],
            "bytes_to_read": planned.bytes_to_read,
            "calibrated": planned.calibrated,
            "basis_id": planned.basis_id,
        }
    )


def _output_answer(output: PlannedOutput, num_images: int) -> dict[str, Any]:
    return {
        "profile": output.profile.model_dump(mode="json"),
        "label": output.profile.label,
        "sigma_rel": output.profile.sigma_rel,
        "coefficients": list(output.coefficients),
        "advice": output.advice,
        "learning_rate": list(map(asdict, learning_rate_multipliers(output.profile, num_images))),
        "tensors": [
            StoredTensorCoefficients.of(tensor).to_json() | {"label": tensor.profile.label} for tensor in output.tensors
        ],
        **asdict(output.errors),
    }


def basis_plan_answer(planned: BasisPlan, made: str | None) -> average_models.BasisPlan:
    """The plan of a basis as the client returns it. `made`: the id of the finished basis that it is."""
    return average_models.BasisPlan(
        num_images=planned.num_images,
        sigma_rel_min=planned.sigma_rel_min,
        sigma_rel_max=planned.sigma_rel_max,
        tolerance=planned.tolerance,
        profiles=[profile.model_dump(mode="json") for profile in planned.profiles],
        vectors=len(planned.vectors),
        bytes_to_read=0 if made else planned.bytes_to_read,
        bytes_to_store=0 if made else planned.bytes_to_store,
        error_added=planned.error,
        basis_id=made,
    )


def basis_answer(run_id: str, basis: StoredBasis) -> average_models.Basis:
    """The basis as the client returns it."""
    return average_models.Basis(
        id=basis.id,
        run_id=run_id,
        state="succeeded",
        num_images=basis.num_images,
        sigma_rel_min=basis.plan.sigma_rel_min,
        sigma_rel_max=basis.plan.sigma_rel_max,
        tolerance=basis.plan.tolerance,
        profiles=[profile.model_dump(mode="json") for profile in basis.plan.profiles],
        vectors=len(basis.vectors),
        error_added=basis.plan.error,
        size=sum(vector.size for vector in basis.vectors),
    )
