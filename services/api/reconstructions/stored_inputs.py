"""What a run has to make averages from: its snapshots and finished bases, as plans take them."""

from __future__ import annotations

from dataclasses import dataclass

from phema.shared import catalog
from phema.shared.catalog import Transaction
from phema.shared.snapshots.planning.basis_plan import BasisPlan, StoredBasis
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile


@dataclass(frozen=True)
class StoredInputs:
    """A run with its snapshots in order of time, their probes, and its finished bases."""

    run: catalog.Run
    snapshots: tuple[StoredSnapshot, ...]
    probes: dict[str, bytes]
    bases: tuple[StoredBasis, ...]

    @property
    def update_images(self) -> int | None:
        """Images between two updates of the averages, where it is known."""
        return self.run.config["batch_size"] if self.run.origin == "trained" else None

    @property
    def latest(self) -> int:
        """The latest time at which every tracked average is stored; while a run trains, the very latest may be half
        there. Where only bases are left, that of the latest.

        What another training loop tracks is what it stored the time before. Raw weights may come and go.
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
    """Raises catalog.NotFound."""
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
    """A snapshot's row, as plans and policies take it."""
    return StoredSnapshot(
        row.id,
        row.num_images,
        Profile.model_validate(row.profile),
        row.key,
        row.size,
        row.sha256,
        row.dtype,  # type: ignore[arg-type]  # checked when it was written
    )
