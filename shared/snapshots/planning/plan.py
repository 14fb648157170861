"""What a plan says. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile


@dataclass(frozen=True)
class Errors:
    """What coefficients promise. All are relative: to the wanted profile's norm, or to that of the weights."""

    profile_error: float | None
    """L2 distance of the combined from the wanted profile; None where raw weights take part."""
    rounding_error: float
    """Rounding of the stored weights, as it adds up in the combination."""
    predicted_error: float
    """Expected L2 distance of the weights from the wanted average: what the profile's misfit does to weights that move
    as this run's do, the rounding, and the rounding of any average kept in float32."""
    noise_gain: float
    """||c||_2, by which independent rounding of the snapshots grows."""


@dataclass(frozen=True)
class TensorCoefficients:
    """Coefficients of the tensors whose name matches `pattern`, in the order of the plan's snapshots."""

    pattern: str
    profile: Profile
    coefficients: tuple[float, ...]
    errors: Errors


@dataclass(frozen=True)
class PlannedOutput:
    """One wanted profile: a coefficient per snapshot of the plan, and what they promise."""

    profile: Profile
    coefficients: tuple[float, ...]
    errors: Errors
    advice: str | None = None
    """Why the fit is poor and what would mend it; None for a good one."""
    tensors: tuple[TensorCoefficients, ...] = ()
    """Of a per-tensor profile, whose `coefficients` are those of its default."""


@dataclass(frozen=True)
class Plan:
    """A reconstruction of one or more profiles at one time from one pass over `snapshots` (in order of time)."""

    num_images: int
    snapshots: tuple[StoredSnapshot, ...]
    outputs: tuple[PlannedOutput, ...]
    bytes_to_read: int
    calibrated: bool
    """Whether the run itself told how much its weights move; otherwise a usual amount is assumed."""
    basis_id: str | None = None
    """The basis whose vectors are read instead of snapshots."""
