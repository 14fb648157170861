"""Stored plans and lineages are read and written back without a change: content keys and files depend on them.

`recorded_plans.json` holds rows and file metadata as the code wrote them before these models existed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from phema.shared.catalog.content_keys import canonical
from phema.shared.snapshots.planning.basis_plan import BasisPlan, BasisSummary, StoredBasis, plan_basis
from phema.shared.snapshots.planning.planner import plan
from phema.shared.snapshots.planning.stored_plan import (
    PlanSummary,
    SnapshotReference,
    StoredPlan,
    planned_snapshot_ids,
)
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile, TensorProfile

RECORDED = json.loads((Path(__file__).parent / "recorded_plans.json").read_text())
RECONSTRUCTIONS: dict[str, dict[str, Any]] = RECORDED["reconstructions"]
BASIS: dict[str, Any] = RECORDED["basis"]
PRESENT = ["short profile", "plain least squares", "mixed dtypes", "per tensor", "from a basis"]
"""Those that were made by a plan; the others come from a migration and from a rebuild."""


@pytest.mark.parametrize("name", RECONSTRUCTIONS)
def test_a_recorded_plan_is_read_and_written_back_identically(name: str) -> None:
    recorded = RECONSTRUCTIONS[name]
    stored = StoredPlan.model_validate(recorded["plan"])
    assert canonical(stored.to_json()) == canonical(recorded["plan"])
    assert canonical(stored.lineage()) == canonical(recorded["lineage"])
    if name in PRESENT:
        assert json.dumps(stored.to_json()) == json.dumps(recorded["plan"]), "the order of keys stays, too"
        assert json.dumps(stored.lineage()) == json.dumps(recorded["lineage"])


@pytest.mark.parametrize("name", RECONSTRUCTIONS)
def test_a_recorded_lineage_is_read_and_written_back_identically(name: str) -> None:
    lineage = RECONSTRUCTIONS[name]["lineage"]
    assert canonical(StoredPlan.from_lineage(lineage).to_json()) == canonical(lineage)


def test_a_recorded_basis_is_read_and_written_back_identically() -> None:
    stored = BasisPlan.model_validate(BASIS["plan"])
    assert json.dumps(stored.model_dump(mode="json")) == json.dumps(BASIS["plan"])
    assert canonical(stored.lineage()) == canonical(BASIS["lineage"])
    ids = {s.sha256: s.id for s in stored.snapshots}
    assert BasisPlan.from_lineage(stored.num_images, BASIS["lineage"], ids) == stored
    gone = BasisPlan.from_lineage(stored.num_images, BASIS["lineage"], {})
    assert [s.id for s in gone.snapshots] == [f"gone-{s.sha256[:16]}" for s in stored.snapshots]
    summary = BasisSummary.model_validate(BASIS["plan"])
    assert (summary.error, len(summary.vectors)) == (stored.error, len(stored.vectors))


def test_plans_are_stored_as_they_were_recorded() -> None:
    """The same questions as those of the recording."""
    snapshots = [_snapshot(n, Profile.power(sigma_rel)) for n in (1, 2, 3) for sigma_rel in (0.05, 0.10)]
    ema = Profile(kind="exponential", half_life_images=500, rampup_ratio=0.05)
    mixed = [*snapshots, _snapshot(3, ema, "float32")]
    uniform = Profile(kind="uniform", window_images=200)
    patterns = (
        TensorProfile(pattern="enc.*", profile=Profile.power(0.05)),
        TensorProfile(pattern="*.weight", profile=uniform),
    )
    per_tensor = Profile(kind="per_tensor", default=Profile.power(0.13), tensors=patterns)
    basis = plan_basis(snapshots, sigma_rel_min=0.05, sigma_rel_max=0.2, tolerance=0.01, update_images=10)
    vectors = tuple(
        StoredSnapshot(
            f"basis-1-{i:02d}", 300, Profile(kind="basis", index=i), f"runs/r/bases/{i}", 900, f"{i:064d}", "float32"
        )
        for i in range(len(basis.vectors))
    )
    sampled = Profile(kind="sampled", times=(100, 300), weights=(1, 3))
    plans = [
        (plan(snapshots, [Profile.power(0.02)]), True),
        (plan(snapshots, [Profile.power(0.12)], regularize=False), False),
        (plan(mixed, [sampled]), True),
        (plan(snapshots, [per_tensor]), True),
        (plan((), [Profile.power(0.1)], num_images=300, bases=[StoredBasis("basis-1", basis, vectors)]), True),
    ]
    for name, (planned, regularize) in zip(PRESENT, plans, strict=True):
        made = StoredPlan.of(planned, planned.outputs[0], regularize=regularize).to_json()
        recorded = RECONSTRUCTIONS[name]["plan"]
        assert _shape(made) == _shape(recorded)
        # The last digits of a solve depend on the machine's linear algebra.
        assert _floats(made) == pytest.approx(_floats(recorded), rel=1e-6, abs=1e-12)
    assert list(basis.model_dump(mode="json")) == list(BASIS["plan"])


def test_what_lists_show_of_a_plan() -> None:
    for recorded in RECONSTRUCTIONS.values():
        whole, summary = StoredPlan.model_validate(recorded["plan"]), PlanSummary.model_validate(recorded["plan"])
        for name in PlanSummary.model_fields:
            assert getattr(summary, name) == getattr(whole, name)
        assert planned_snapshot_ids(recorded["plan"]) == {s.id for s in whole.snapshots if s.id is not None}
    assert not PlanSummary.model_validate(RECONSTRUCTIONS["plain least squares"]["plan"]).regularized
    without = {name: value for name, value in RECONSTRUCTIONS["per tensor"]["plan"].items() if name != "regularize"}
    assert PlanSummary.model_validate(without).regularized, "rows of early versions do not say so"


def test_a_lineage_of_the_first_version_is_understood() -> None:
    entry = {"id": "s", "num_images": 300, "sigma_rel": 0.05, "sha256": "h"}
    lineage = {"snapshots": [entry], "coefficients": [1.0], "predicted_error": 1e-4, "noise_gain": 1.0}
    stored = StoredPlan.from_lineage(lineage)
    assert stored.snapshots[0].profile == Profile.power(0.05)
    assert (stored.profile_error, stored.rounding_error, stored.regularize) == (1e-4, None, False)
    assert stored.to_json()["rounding_error"] is None


def test_a_field_of_a_later_version_is_kept() -> None:
    recorded = RECONSTRUCTIONS["per tensor"]["plan"] | {"later": [1, 2]}
    assert StoredPlan.model_validate(recorded).to_json() == recorded


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"snapshots": [{}]}, "num_images"),
        ({"coefficients": [1.0]}, "1 coefficients for 5 snapshots"),
        ({"predicted_error": None}, "predicted_error"),
    ],
)
def test_a_malformed_lineage_is_refused(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        StoredPlan.from_lineage(RECONSTRUCTIONS["per tensor"]["lineage"] | change)


def test_a_reference_leads_back_to_its_snapshot() -> None:
    snapshot = _snapshot(1, Profile.power(0.05))
    assert SnapshotReference.of(snapshot).snapshot() == snapshot
    gone = SnapshotReference(num_images=100, profile=Profile.power(0.05), sha256="h")
    with pytest.raises(ValueError, match="snapshot h at 100 images is no longer stored"):
        gone.snapshot()


def _snapshot(n: int, profile: Profile, dtype: Any = "float16") -> StoredSnapshot:
    sha256 = f"{n:02d}{profile.label}".encode().hex().ljust(64, "0")
    key = f"runs/r/snapshots/{n}-{profile.label}"
    return StoredSnapshot(f"snap-{n}-{profile.label}", n * 100, profile, key, 1000 + n, sha256, dtype)


def _shape(value: Any) -> Any:
    """The JSON without the values of its floats; keys in order."""
    if isinstance(value, dict):
        return [(name, _shape(part)) for name, part in value.items()]
    if isinstance(value, list):
        return [_shape(part) for part in value]
    return "float" if isinstance(value, float) else value


def _floats(value: Any) -> list[float]:
    if isinstance(value, float):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [number for part in parts for number in _floats(part)]
