"""Checkpoints, from which runs resume."""

from __future__ import annotations

from sqlalchemy import delete, select, update

from phema.shared.catalog.column_types import new_id
from phema.shared.catalog.models import Checkpoint
from phema.shared.catalog.repositories.repository import Repository, Rows


class CheckpointRepository(Repository):
    def add(self, *, run_id: str, num_images: int, key: str, size: int, sha256: str) -> tuple[Checkpoint, bool]:
        """(the row of this time, whether it is new)."""
        values = {
            "id": new_id("ckpt"),
            "run_id": run_id,
            "num_images": num_images,
            "key": key,
            "size": size,
            "sha256": sha256,
        }
        created = self._add(Checkpoint, values, ["run_id", "num_images"])
        query = select(Checkpoint).where(Checkpoint.run_id == run_id, Checkpoint.num_images == num_images)
        return self._all(query)[0], created

    def latest(self, run_id: str) -> Checkpoint | None:
        """The run's latest checkpoint, or None."""
        return self._first(select(Checkpoint).where(Checkpoint.run_id == run_id).order_by(Checkpoint.num_images.desc()))

    def all_but_latest(self, run_id: str, keep: int) -> Rows[Checkpoint]:
        """All but the `keep` latest, oldest first."""
        query = select(Checkpoint).where(Checkpoint.run_id == run_id).order_by(Checkpoint.num_images.desc())
        return self._all(query)[keep:][::-1]

    def surplus(self, run_id: str, keep: int) -> Rows[Checkpoint]:
        """The checkpoints that are neither pinned nor among the `keep` latest, oldest first."""
        return [row for row in self.all_but_latest(run_id, keep) if not row.pinned]

    def set_pinned(self, run_id: str, num_images: int, pinned: bool) -> None:
        """Pin or unpin the checkpoint of that time; does nothing when there is none. Lock the run first."""
        statement = update(Checkpoint).where(Checkpoint.run_id == run_id, Checkpoint.num_images == num_images)
        self._session.execute(statement.values(pinned=pinned).execution_options(synchronize_session=False))

    def delete(self, checkpoint_id: str) -> None:
        """Delete the row. In the same transaction, list its object for deletion (`tx.deletions.release`).

        Does nothing when the row does not exist.
        """
        self._session.execute(
            delete(Checkpoint).where(Checkpoint.id == checkpoint_id).execution_options(synchronize_session=False)
        )
