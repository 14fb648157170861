"""Tables of training runs: snapshots, checkpoints, history."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import ForeignKey, Index, LargeBinary, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from phema.shared.catalog.clock import database_now
from phema.shared.catalog.column_types import Figures, Json, Sequence
from phema.shared.catalog.models.base import Base
from phema.shared.catalog.models.jobs import Job, JobKind, JobState


class RunState(StrEnum):
    """What users see of a run: queued, starting, running or paused, then succeeded, failed or cancelled."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Run(Base):
    """A training run with its frozen configuration. Its state is that of its job, the latest job if it was resumed."""

    __tablename__ = "runs"
    __table_args__ = (Index("ix_runs_num_images_seq", "num_images", "seq"),)

    seq: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str] = mapped_column(unique=True)
    config: Mapped[dict[str, Any]]
    config_hash: Mapped[str]
    total_images: Mapped[int]
    num_images: Mapped[int] = mapped_column(default=0)
    # No foreign key: jobs.run_id already points here, and both rows are written in one transaction.
    job_id: Mapped[str] = mapped_column(unique=True)
    origin: Mapped[str] = mapped_column(default="trained", server_default="trained")
    """`trained` by phema, `external` (the user's own loop) or `imported` (from files)."""
    parent: Mapped[dict[str, Any] | None] = mapped_column(Json)
    """What a fork began from: `run_id` and `num_images` of the other run, a `checkpoint_id` or a `reconstruction_id`,
    and `key`, `size` and `sha256` of the object. NULL for a run that began with random weights. After the catalog was
    rebuilt, the id is that of a row that is gone; the key is still right."""
    written_at: Mapped[float | None]
    """When the writer of an external run last wrote. NULL before, and for other runs."""
    silent_since: Mapped[float | None]
    """Of an open external run whose writer has fallen silent: when it wrote for the last time. NULL otherwise."""
    delete_at: Mapped[float | None]
    """When the run will be deleted, as a user asked; NULL when nobody did."""
    deleted_at: Mapped[float | None]
    """When the rows of the run's results were deleted and its objects were listed for deletion. This row, its jobs and
    its events stay; `name` is then not the name of any run (`run_deletions.name_of_deleted`)."""
    created_at: Mapped[float] = mapped_column(default=database_now())

    job: Mapped[Job] = relationship(
        primaryjoin="foreign(Run.job_id) == Job.id", lazy="joined", innerjoin=True, viewonly=True
    )

    @property
    def state(self) -> JobState:
        return self.job.state

    @property
    def run_state(self) -> RunState:
        """As `state`, with `starting` for a training that has been claimed and does not train yet."""
        starts = self.job.state is JobState.RUNNING and self.job.kind is JobKind.TRAIN and not self.job.working
        return RunState.STARTING if starts else RunState(self.job.state.value)


class Snapshot(Base):
    """The weights of one EMA of a run at one time. The row exists only if its object is complete.

    `profile` is `phema.shared.snapshots.profile.Profile` as JSON, `profile_key` its canonical text, without `gamma`.
    """

    __tablename__ = "snapshots"
    __table_args__ = (UniqueConstraint("run_id", "num_images", "profile_key"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    num_images: Mapped[int]
    profile: Mapped[dict[str, Any]]
    profile_key: Mapped[str]
    sigma_rel: Mapped[float | None]
    """Of a power-function EMA, else NULL. Lists are ordered by it."""
    dtype: Mapped[str]
    key: Mapped[str]
    size: Mapped[int]
    sha256: Mapped[str]
    probe: Mapped[bytes | None] = mapped_column(LargeBinary, deferred=True)
    """A sample of the weights (`snapshots.files.weight_probe`). Plans estimate from it how much the weights change."""
    pinned: Mapped[bool] = mapped_column(default=False)
    """Kept by every retention policy."""
    retired_at: Mapped[float | None]
    """When a retention policy gave the snapshot up: plans ignore it, its object is deleted, then its row."""
    created_at: Mapped[float] = mapped_column(default=database_now())


class Checkpoint(Base):
    """What a run resumes from. The row exists only if its object is complete."""

    __tablename__ = "checkpoints"
    __table_args__ = (UniqueConstraint("run_id", "num_images"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    num_images: Mapped[int]
    key: Mapped[str]
    size: Mapped[int]
    sha256: Mapped[str]
    pinned: Mapped[bool] = mapped_column(default=False)
    """Kept, however many later checkpoints the run has."""
    created_at: Mapped[float] = mapped_column(default=database_now())


class HistoryPoint(Base):
    """Figures of a run at one time: loss, learning rate, magnitudes, throughput. They may be NaN or infinite."""

    __tablename__ = "history"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    num_images: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    values: Mapped[dict[str, float]] = mapped_column(Figures)
    created_at: Mapped[float] = mapped_column(default=database_now())
