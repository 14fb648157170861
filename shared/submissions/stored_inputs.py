"""The stored snapshots and finished bases of a run, in the form that plans take."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from phema.shared import catalog
from phema.shared.catalog import Transaction
from phema.shared.snapshots.planning.basis_plan import BasisPlan, StoredBasis
from phema.shared.snapshots.planning.planner import Calibrator
from phema.shared.snapshots.planning.reconstruction_times import latest_complete
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile
from phema.shared.submissions.errors import NoSnapshots, SnapshotsGone
from phema.shared.submissions.run_calibrations import RunCalibrations


@dataclass(frozen=True)
class StoredInputs:
    """A run with its snapshots in order of time, their probes (by snapshot id), and its finished bases."""

    run: catalog.Run
    snapshots: tuple[StoredSnapshot, ...]
    probes: dict[str, bytes]
    bases: tuple[StoredBasis, ...]
    calibrator: Calibrator | None = None
    """Stands for the probes, which are then not loaded."""

    @property
    def update_images(self) -> int | None:
        """Images between two updates of the averages; None when unknown."""
        return self.run.config["batch_size"] if self.run.origin == "trained" else None

    @property
    def latest(self) -> int:
        """See `latest_complete`. Without snapshots: the time of the latest basis."""
        found = latest_complete(self.snapshots, _tracked(self.run))
        return max(basis.num_images for basis in self.bases) if found is None else found

    def refuse_empty(self) -> None:
        """Raise NoSnapshots if nothing is stored yet."""
        if self.snapshots or self.bases:
            return
        run, first = self.run, ""
        if run.origin == "trained":
            every = run.config["snapshot_every"]
            first = f"the first is written after {min(every, run.total_images)} images, "
        raise NoSnapshots(
            "", f"run {run.name} has no snapshots yet: {first}it has seen {run.num_images} and is {run.state}"
        )


def complete_times(tx: Transaction, run: catalog.Run, after: int) -> list[int]:
    """The times after `after` images at which every average that phema tracks for the run is stored, in order."""
    stored_at: dict[int, set[str]] = {}
    for row in tx.snapshots.list(run.id, after=after):
        stored_at.setdefault(row.num_images, set()).add(Profile.model_validate(row.profile).key)
    tracked = _tracked(run)
    return sorted(time for time, found in stored_at.items() if tracked <= found)


def _tracked(run: catalog.Run) -> set[str]:
    """Keys of the power functions that a run tracks; empty for a run of another training loop."""
    if run.origin != "trained":
        return set()
    return {Profile.power(sigma_rel).key for sigma_rel in run.config["ema_sigma_rels"]}


def load_stored_inputs(
    tx: Transaction, run: str, calibrations: RunCalibrations | None = None, *, probes: bool = True
) -> StoredInputs:
    """Read them for the run with this id or name; without probes if `calibrations` are given.

    Plans need one of the two. Raises catalog.NotFound.
    """
    row = tx.runs.get(run)
    snapshots, bases = tuple(map(as_stored, tx.snapshots.list(row.id))), _finished_bases(tx, row.id)
    if calibrations is None:
        return StoredInputs(row, snapshots, tx.snapshots.probes(row.id) if probes else {}, bases)
    found = StoredInputs(row, snapshots, {}, bases)
    return replace(found, calibrator=partial(calibrations.measure, row.id, update_images=found.update_images))


def _finished_bases(tx: Transaction, run_id: str) -> tuple[StoredBasis, ...]:
    """The bases of a run that plans may use."""
    return tuple(
        StoredBasis(
            id=row.id,
            plan=BasisPlan.model_validate(row.plan),
            vectors=tuple(
                StoredSnapshot(
                    id=f"{row.id}-{index:02d}",
                    num_images=row.num_images,
                    profile=Profile(kind="basis", index=index),
                    key=vector["key"],
                    size=vector["size"],
                    sha256=vector["sha256"],
                    dtype="float32",
                )
                for index, vector in enumerate(row.vectors or ())
            ),
        )
        for row in tx.bases.finished(run_id)
    )


def as_stored(row: catalog.Snapshot) -> StoredSnapshot:
    """A snapshot's row in the form that plans and policies take."""
    return StoredSnapshot(
        row.id,
        row.num_images,
        Profile.model_validate(row.profile),
        row.key,
        row.size,
        row.sha256,
        row.dtype,  # type: ignore[arg-type]  # checked when it was written
    )


def refuse_retired(tx: Transaction, snapshot_ids: list[str]) -> None:
    """Check that the snapshots are not retired. Call with the run locked, before queueing a job that reads them.

    Raises SnapshotsGone.
    """
    if lost := tx.snapshots.missing(snapshot_ids):
        raise SnapshotsGone("", f"{len(lost)} of the planned snapshots were retired by retention meanwhile; ask again")
