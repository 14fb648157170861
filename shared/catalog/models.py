"""Every table of the catalog. Times (`*_at`) are seconds since the epoch, UTC, by the database's clock."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Double,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    String,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from phema.shared.catalog.clock import database_now
from phema.shared.catalog.column_types import Figures, Json, Sequence, enum_column


class JobState(StrEnum):
    """queued, running, then succeeded, failed or cancelled. A running job may be queued again; the others are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class JobKind(StrEnum):
    """What a job does; its default priority is in `PRIORITY`."""

    TRAIN = "train"
    RECONSTRUCT = "reconstruct"
    EVALUATE = "evaluate"
    COMPACT = "compact"
    RETAIN = "retain"
    EXTERNAL = "external"
    """A training loop of the user's own. No service claims the job; the user ends it."""


PRIORITY = {
    JobKind.RECONSTRUCT: 10,
    JobKind.COMPACT: 15,
    JobKind.EVALUATE: 20,
    JobKind.RETAIN: 25,
    JobKind.TRAIN: 30,
    JobKind.EXTERNAL: 30,
}
"""Default priorities; lower is claimed first. Users wait for reconstructions, so these come first."""


class AttemptOutcome(StrEnum):
    """How an attempt ended. `expired`: its lease ran out."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RELEASED = "released"
    EXPIRED = "expired"


LIVE_CONTENT = "state IN ('queued', 'running', 'succeeded')"
"""A content key is unique among these jobs: an equal request gets the same job. Failed jobs may be requested again."""


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {str: String(), int: BigInteger(), float: Double(), dict[str, Any]: Json}  # noqa: RUF012


class Job(Base):
    """A durable unit of work. `fence` counts claims: an attempt with an older fence has lost the job."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index(
            "uq_jobs_content_key_live",
            "content_key",
            unique=True,
            sqlite_where=text(LIVE_CONTENT),
            postgresql_where=text(LIVE_CONTENT),
        ),
        # Claims read it in order, and reject jobs of other kinds and jobs not due yet without reading their rows.
        Index("ix_jobs_claim", "state", "priority", "seq", "kind", "not_before"),
        # Pages, newest first, for every combination of filters.
        Index("ix_jobs_kind_seq", "kind", "seq"),
        Index("ix_jobs_state_seq", "state", "seq"),
        Index("ix_jobs_kind_state_seq", "kind", "state", "seq"),
        Index("ix_jobs_run_id_seq", "run_id", "seq"),
    )

    seq: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[JobKind] = mapped_column(enum_column(JobKind, "kind"))
    state: Mapped[JobState] = mapped_column(enum_column(JobState, "state"), default=JobState.QUEUED)
    priority: Mapped[int]
    run_id: Mapped[str | None] = mapped_column(ForeignKey("runs.id"))
    request_id: Mapped[str | None]
    """Id of the first request for the job, if there was one, for the logs."""
    payload: Mapped[dict[str, Any]]
    content_key: Mapped[str]
    fence: Mapped[int] = mapped_column(default=0)
    attempts: Mapped[int] = mapped_column(default=0)
    """Attempts started since the last progress."""
    max_attempts: Mapped[int]
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[float | None]
    not_before: Mapped[float] = mapped_column(default=0.0)
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    progress: Mapped[float] = mapped_column(default=0.0)
    message: Mapped[str | None]
    trouble: Mapped[str | None]
    """What the running attempt waits for, in one sentence; NULL while nothing is wrong. Heartbeats do not change it."""
    result: Mapped[dict[str, Any] | None] = mapped_column(Json)
    error: Mapped[str | None]
    created_at: Mapped[float] = mapped_column(default=database_now())
    started_at: Mapped[float | None]
    """Time of the first claim."""
    finished_at: Mapped[float | None] = mapped_column(index=True)

    @property
    def ids(self) -> dict[str, object]:
        """Log fields of every line about the job."""
        return {"run_id": self.run_id, "job_id": self.id, "attempt": self.fence or None, "request_id": self.request_id}


class Attempt(Base):
    """One claim of a job. Never deleted: the rows are the job's history."""

    __tablename__ = "attempts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """The fence of this claim."""
    submission_id: Mapped[str] = mapped_column(unique=True)
    """Name under which the attempt is submitted to Ray. Made of job and fence, so that submitting twice is harmless."""
    owner: Mapped[str]
    started_at: Mapped[float] = mapped_column(default=database_now())
    ended_at: Mapped[float | None] = mapped_column(index=True)
    outcome: Mapped[AttemptOutcome | None] = mapped_column(enum_column(AttemptOutcome, "outcome"))
    error: Mapped[str | None]


class Run(Base):
    """A training run with its frozen configuration. Its state is that of its job, the latest job if it was resumed."""

    __tablename__ = "runs"

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
    created_at: Mapped[float] = mapped_column(default=database_now())

    job: Mapped[Job] = relationship(
        primaryjoin="foreign(Run.job_id) == Job.id", lazy="joined", innerjoin=True, viewonly=True
    )

    @property
    def state(self) -> JobState:
        return self.job.state


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


class Deletion(Base):
    """An object that no row names: it is deleted once its job has ended, and then this row."""

    __tablename__ = "deletions"

    key: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    """The job that may still name the object in a row; NULL when no job will."""
    claimed_at: Mapped[float | None]
    """When a process began to delete the object; NULL when none has."""
    created_at: Mapped[float] = mapped_column(default=database_now())


class HistoryPoint(Base):
    """Figures of a run at one time: loss, learning rate, magnitudes, throughput. They may be NaN or infinite."""

    __tablename__ = "history"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    num_images: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    values: Mapped[dict[str, float]] = mapped_column(Figures)
    created_at: Mapped[float] = mapped_column(default=database_now())


class Reconstruction(Base):
    """One requested profile of a run at one time. `key` is set once the weights are in the store."""

    __tablename__ = "reconstructions"
    __table_args__ = (Index("ix_reconstructions_run_id_seq", "run_id", "seq"),)

    seq: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(unique=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    num_images: Mapped[int]
    profile: Mapped[dict[str, Any]]
    sigma_rel: Mapped[float | None]
    """Of a power-function EMA, else NULL."""
    dtype: Mapped[str]
    content_key: Mapped[str] = mapped_column(unique=True)
    plan: Mapped[dict[str, Any]]
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    key: Mapped[str | None]
    size: Mapped[int | None]
    sha256: Mapped[str | None]
    created_at: Mapped[float] = mapped_column(default=database_now())

    job: Mapped[Job | None] = relationship(lazy="joined", viewonly=True)

    @property
    def state(self) -> JobState:
        """`succeeded` once the weights exist, whatever later jobs did; before that, the state of the job."""
        return _state(self.key is not None, self.job)

    @property
    def needs_job(self) -> bool:
        return _needs_job(self.key is not None, self.job)


class Basis(Base):
    """A few orthonormal vectors that stand for all snapshots of a run up to one time.

    `vectors` is set once the vectors are in the store.
    """

    __tablename__ = "bases"
    __table_args__ = (Index("ix_bases_run_id_seq", "run_id", "seq"),)

    seq: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(unique=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    num_images: Mapped[int]
    sigma_rel_min: Mapped[float]
    sigma_rel_max: Mapped[float]
    tolerance: Mapped[float]
    content_key: Mapped[str] = mapped_column(unique=True)
    plan: Mapped[dict[str, Any]]
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    vectors: Mapped[list[dict[str, Any]] | None] = mapped_column(Json)
    """One `{key, size, sha256}` per basis vector."""
    created_at: Mapped[float] = mapped_column(default=database_now())

    job: Mapped[Job | None] = relationship(lazy="joined", viewonly=True)

    @property
    def state(self) -> JobState:
        """`succeeded` once the vectors exist; before that, the state of the job."""
        return _state(self.vectors is not None, self.job)

    @property
    def needs_job(self) -> bool:
        return _needs_job(self.vectors is not None, self.job)


class Evaluation(Base):
    """Figures and pictures of one reconstruction under one recipe. `figures` is set once they exist."""

    __tablename__ = "evaluations"
    __table_args__ = (Index("ix_evaluations_run_id_seq", "run_id", "seq"),)

    seq: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(unique=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    reconstruction_id: Mapped[str] = mapped_column(ForeignKey("reconstructions.id"), index=True)
    recipe: Mapped[dict[str, Any]]
    content_key: Mapped[str] = mapped_column(unique=True)
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    figures: Mapped[dict[str, float] | None] = mapped_column(Figures(none_as_null=True))
    pictures_key: Mapped[str | None]
    created_at: Mapped[float] = mapped_column(default=database_now())

    job: Mapped[Job | None] = relationship(lazy="joined", viewonly=True)
    reconstruction: Mapped[Reconstruction] = relationship(lazy="joined", innerjoin=True, viewonly=True)

    @property
    def state(self) -> JobState:
        """`succeeded` once the figures exist; before that, the state of the job."""
        return _state(self.figures is not None, self.job)

    @property
    def needs_job(self) -> bool:
        return _needs_job(self.figures is not None, self.job)


class IdempotencyRecord(Base):
    """The response to a request with an Idempotency-Key."""

    __tablename__ = "idempotency"

    key: Mapped[str] = mapped_column(primary_key=True)
    request_hash: Mapped[str]
    status: Mapped[int]
    body: Mapped[Any] = mapped_column(JSON)
    created_at: Mapped[float] = mapped_column(default=database_now())


class ScrapeTarget(Base):
    """A process that serves Prometheus metrics at `address` (host:port)."""

    __tablename__ = "targets"

    address: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    labels: Mapped[dict[str, Any]]
    seen_at: Mapped[float] = mapped_column(default=database_now())


def _state(done: bool, job: Job | None) -> JobState:
    if done:
        return JobState.SUCCEEDED
    return JobState.QUEUED if job is None else job.state


def _needs_job(done: bool, job: Job | None) -> bool:
    return not done and (job is None or job.state.terminal)
