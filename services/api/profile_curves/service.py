"""Curves of plans as answers."""

from __future__ import annotations

from phema.services.api.profile_curves import schemas
from phema.services.api.reconstructions.service import to_plan
from phema.shared.edm2.averaging.densities import FloatArray
from phema.shared.snapshots.planning.plan import Plan
from phema.shared.snapshots.planning.profile_curves import ProfileCurves


def to_profile_curves(planned: Plan, found: ProfileCurves, speed: float | None) -> schemas.ProfileCurves:
    """`speed`: reading speed of the store in bytes per second, if known."""
    times = found.times.tolist()
    return schemas.ProfileCurves(
        plan=to_plan(planned, speed),
        curves=[
            schemas.ProfileCurve(
                output=curve.output,
                pattern=curve.pattern,
                label=curve.profile.label,
                sigma_rel=curve.profile.sigma_rel,
                times=times,
                wanted=None if curve.wanted is None else _short(curve.wanted),
                reconstructed=None if curve.reconstructed is None else _short(curve.reconstructed),
            )
            for curve in found.curves
        ],
        shares=[
            schemas.SnapshotShare(
                num_images=snapshot.num_images,
                label=snapshot.profile.label,
                sigma_rel=snapshot.profile.sigma_rel,
                coefficients=[float(curve.coefficients[i]) for curve in found.curves],
            )
            for i, snapshot in enumerate(found.snapshots)
        ],
    )


def _short(values: FloatArray) -> list[float]:
    """With 6 significant digits, which is more than a drawing shows."""
    return [float(f"{value:.6g}") for value in values.tolist()]
