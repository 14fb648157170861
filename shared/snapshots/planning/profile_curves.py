"""The curves of a plan for drawing: wanted and reconstructed weighting of training history, and each snapshot's share.

This is the paper's Figure 4. It needs no weights. Torch-free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from phema.shared.edm2.averaging.densities import FloatArray
from phema.shared.edm2.averaging.weightings import WeightingError
from phema.shared.snapshots.planning.basis_plan import StoredBasis
from phema.shared.snapshots.planning.plan import Plan
from phema.shared.snapshots.planning.profile_weighting import weighting
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile

_NEAREST = 1e-4
"""Distance of the last point but one from the end, as a share of training: shorter than any useful average."""


@dataclass(frozen=True, eq=False)
class Curve:
    """One plain profile of a plan: that of an output, or that of the tensors whose names match `pattern`."""

    output: int
    """Index of the plan's output."""
    pattern: str | None
    profile: Profile
    wanted: FloatArray | None
    """[points] density times the length of training, so that the mean over training is 1; None for raw weights."""
    reconstructed: FloatArray | None
    """As `wanted`; None if a snapshot with a coefficient holds raw weights."""
    coefficients: FloatArray
    """One per snapshot of the curves."""


@dataclass(frozen=True, eq=False)
class ProfileCurves:
    """All curves of a plan."""

    times: FloatArray
    """[points] in images, rising to the time of the plan."""
    snapshots: tuple[StoredSnapshot, ...]
    """Those that have a share. For a plan that reads a basis: those from which the basis was made."""
    curves: tuple[Curve, ...]


def profile_curves(plan: Plan, bases: Sequence[StoredBasis], points: int) -> ProfileCurves:
    """The curves of `plan` at `points` times. `bases`: those of the run, among which is that of the plan, if any."""
    rows: list[tuple[int, str | None, Profile, Sequence[float]]] = []
    for number, output in enumerate(plan.outputs):
        rows.append((number, None, output.profile.default or output.profile, output.coefficients))
        rows += [(number, tensor.pattern, tensor.profile, tensor.coefficients) for tensor in output.tensors]
    snapshots, coefficients = plan.snapshots, np.array([row[3] for row in rows], np.float64)
    if plan.basis_id is not None:
        basis = next(basis for basis in bases if basis.id == plan.basis_id)
        snapshots, coefficients = basis.plan.snapshots, coefficients @ np.array(basis.plan.vectors)
    times = _times(plan.num_images, points)

    def density(profile: Profile, end: int) -> FloatArray | None:
        try:
            return weighting(profile, end).density(times) * plan.num_images
        except WeightingError:  # an impulse
            return None

    stored = [density(snapshot.profile, snapshot.num_images) for snapshot in snapshots]
    impulses = np.array([one is None for one in stored], bool)
    densities = np.stack([np.zeros_like(times) if one is None else one for one in stored])
    curves = [
        Curve(
            number,
            pattern,
            profile,
            density(profile, plan.num_images),
            None if row[impulses].any() else row @ densities,
            row,
        )
        for (number, pattern, profile, _), row in zip(rows, coefficients, strict=True)
    ]
    return ProfileCurves(times, snapshots, tuple(curves))


def _times(num_images: int, points: int) -> FloatArray:
    """Half of the points evenly spaced, half ever closer to the end, where short averages have all their weight."""
    even = np.linspace(0.0, 1.0, points - points // 2 + 1)[1:]
    late = 1 - np.geomspace(_NEAREST, 1.0, points // 2 + 1)[:-1]
    return np.round(np.sort(np.concatenate([even, late])) * num_images, 4)
