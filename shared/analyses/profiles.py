"""The weightings that reconstructions want and reach (the paper's Figure 4), from their stored plans. Torch-free."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from phema.shared.snapshots.planning.stored_plan import StoredPlan
from phema.shared.snapshots.profile import Profile

if TYPE_CHECKING:
    from phema.shared.pictures.theme import Format, Theme

COLUMNS = ("label", "sigma_rel", "num_images", "snapshots", "profile_error", "predicted_error", "noise_gain")
"""Columns of the table."""


@dataclass(frozen=True)
class SnapshotOfPlan:
    """A snapshot that a plan reads."""

    profile: Mapping[str, Any]
    num_images: int


@dataclass(frozen=True)
class OutputOfPlan:
    """One reconstruction: what it wants, one coefficient per snapshot, and its predicted errors."""

    profile: Mapping[str, Any]
    label: str
    sigma_rel: float | None
    coefficients: Sequence[float]
    profile_error: float | None
    predicted_error: float
    noise_gain: float

    @property
    def snapshots(self) -> int:
        """Number of snapshots that it reads."""
        return sum(1 for coefficient in self.coefficients if coefficient)


@dataclass(frozen=True)
class CombinedPlan:
    """The plans of several reconstructions of one run at one time, over all snapshots that any of them reads."""

    num_images: int
    snapshots: Sequence[SnapshotOfPlan] = field(default_factory=tuple)
    outputs: Sequence[OutputOfPlan] = field(default_factory=tuple)

    def document(self) -> list[dict[str, Any]]:
        """One object per reconstruction, with the fields of COLUMNS."""
        return [
            {name: self.num_images if name == "num_images" else getattr(output, name) for name in COLUMNS}
            for output in self.outputs
        ]

    def as_csv(self) -> str:
        """Comma-separated values with a line of column names, and `\\n` at the end of each line."""
        file = io.StringIO()
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.document())
        return file.getvalue()

    def picture(self, theme: Theme, format: Format) -> bytes:
        """PNG or SVG. It imports matplotlib."""
        from phema.shared.pictures.plan_profiles import plan_profiles

        return plan_profiles(self, theme, format)


def combine(num_images: int, plans: Sequence[tuple[Profile, StoredPlan]]) -> CombinedPlan:
    """The plans of reconstructions at `num_images`, in order of EMA length; the first of equal profiles counts.

    Left out are plans that read a basis, whose vectors weight no moments of training, and profiles that are not a
    single weighting.
    """
    usable = {
        profile.model_dump_json(): (profile, plan)
        for profile, plan in reversed(plans)
        if profile.kind not in ("per_tensor", "basis")
        and all(reference.profile.kind != "basis" for reference in plan.snapshots)
    }
    chosen = sorted(usable.values(), key=lambda item: (item[0].sigma_rel is None, item[0].sigma_rel or 0.0))
    places: dict[tuple[str, int], int] = {}
    snapshots: list[SnapshotOfPlan] = []
    for _, plan in chosen:
        for reference in plan.snapshots:
            place = (reference.profile.model_dump_json(), reference.num_images)
            if place not in places:
                places[place] = len(snapshots)
                snapshots.append(SnapshotOfPlan(reference.profile.model_dump(mode="json"), reference.num_images))
    outputs = []
    for profile, plan in chosen:
        coefficients = [0.0] * len(snapshots)
        for reference, coefficient in zip(plan.snapshots, plan.coefficients, strict=True):
            coefficients[places[reference.profile.model_dump_json(), reference.num_images]] = coefficient
        outputs.append(
            OutputOfPlan(
                profile.model_dump(mode="json"),
                profile.label,
                profile.sigma_rel,
                coefficients,
                plan.profile_error,
                plan.predicted_error,
                plan.noise_gain,
            )
        )
    return CombinedPlan(num_images, snapshots, outputs)
