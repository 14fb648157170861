"""The plan of a reconstruction: snapshots, coefficients and predicted errors. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile


@dataclass(frozen=True)
class PredictedErrors:
    """Predicted errors of one set of coefficients."""

    profile_error: float | None
    """L2 distance of the combined from the wanted profile, relative to the norm of the wanted one. None when a profile
    is raw weights."""
    rounding_error: float
    """Rounding of the stored weights as it adds up in the combination, relative to the weights."""
    predicted_error: float
    """Expected L2 distance of the weights from the wanted average, relative to the weights. It includes the effect of
    the profile's misfit on weights that move as this run's do, the rounding of the stored weights, and the rounding of
    an average that is tracked in float32."""
    noise_gain: float
    """Euclidean norm of the coefficients, the factor by which independent rounding of the snapshots grows."""


@dataclass(frozen=True)
class TensorCoefficients:
    """Coefficients of the tensors whose name matches `pattern`, in the order of the plan's snapshots."""

    pattern: str
    profile: Profile
    coefficients: tuple[float, ...]
    errors: PredictedErrors


@dataclass(frozen=True)
class PlannedOutput:
    """One wanted profile: a coefficient for each snapshot of the plan, and the predicted errors."""

    profile: Profile
    coefficients: tuple[float, ...]
    errors: PredictedErrors
    advice: str | None = None
    """Why the fit is poor and how to avoid it; None for a good fit."""
    tensors: tuple[TensorCoefficients, ...] = ()
    """For a per-tensor profile, whose `coefficients` are those of its default."""


@dataclass(frozen=True)
class Plan:
    """A reconstruction of one or more profiles at one time from one pass over `snapshots` (in order of time)."""

    num_images: int
    snapshots: tuple[StoredSnapshot, ...]
    outputs: tuple[PlannedOutput, ...]
    bytes_to_read: int
    calibrated: bool
    """Whether the movement of the weights was measured on the run. Otherwise a usual amount is assumed."""
    basis_id: str | None = None
    """The basis whose vectors are read instead of snapshots."""
