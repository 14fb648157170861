"""The stored snapshots and finished bases of a run, in the form that plans take."""

from __future__ import annotations

from dataclasses import dataclass

from phema.shared import catalog
from phema.shared.catalog import Transaction
from phema.shared.snapshots.planning.basis_plan import BasisPlan, StoredBasis
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile


@dataclass(frozen=True)
class StoredInputs:
    """A run with its snapshots in order of time, their probes (by snapshot id), and its finished bases."""

    run: catalog.Run
    snapshots: tuple[StoredSnapshot, ...]
    probes: dict[str, bytes]
    bases: tuple[StoredBasis, ...]

    @property
    def update_images(self) -> int | None:
        """Images between two updates of the averages; None when unknown."""
        return self.run.config["batch_size"] if self.run.origin == "trained" else None

    @property
    def latest(self) -> int:
        """The latest time at which every tracked average is stored, in images.

        While a run trains, some averages of the newest time may be missing. A run of another training loop is taken to
        track what it stored at the time before; raw weights do not count. Without snapshots: the time of the latest
        basis.
        """
        stored_at: dict[int, set[str]] = {}
        for snapshot in [s for s in self.snapshots if s.profile.kind != "raw"] or self.snapshots:
            stored_at.setdefault(snapshot.num_images, set()).add(snapshot.profile.key)
        if not stored_at:
            return max(basis.num_images for basis in self.bases)
        if self.run.origin == "trained":
            tracked = {Profile.power(sigma_rel).key for sigma_rel in self.run.config["ema_sigma_rels"]}
        else:
            tracked = stored_at[sorted(stored_at)[-2:][0]]
        return max((time for time, found in stored_at.items() if tracked <= found), default=max(stored_at))


def load_stored_inputs(tx: Transaction, run: str) -> StoredInputs:
    """Read them for the run with this id or name. Raises catalog.NotFound."""
    row = tx.runs.get(run)
    snapshots = tuple(map(as_stored, tx.snapshots.list(row.id)))
    return StoredInputs(row, snapshots, tx.snapshots.probes(row.id), _finished_bases(tx, row.id))


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
