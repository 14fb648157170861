"""Tables of the queue: jobs, their dependencies, their attempts, and objects listed for deletion."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from phema.shared.catalog.clock import database_now
from phema.shared.catalog.column_types import Json, Sequence, enum_column, open_enum_column
from phema.shared.catalog.models.base import Base


class JobState(StrEnum):
    """queued, running, then succeeded, failed or cancelled, which are final.

    A running job may be queued again. The job of a run may be paused: nobody claims it until a user resumes it.
    """

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
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
    DRAW = "draw"
    """Draw some of an evaluation's pictures and compute their features."""
    SAMPLE = "sample"
    """Draw pictures without scoring them."""
    PREVIEW = "preview"
    """Draw pictures of weights that are not stored, for a person who waits."""
    SWEEP = "sweep"
    SEARCH = "search"
    FOLLOW = "follow"
    """Evaluate a run again and again while it trains."""
    DELETE = "delete"
    """Delete the objects and rows of a run that a user has given up."""
    EXTERNAL = "external"
    """A training loop of the user's own. No service claims the job; the user ends it."""


PRIORITY = {
    JobKind.PREVIEW: 5,
    JobKind.RECONSTRUCT: 10,
    JobKind.COMPACT: 15,
    JobKind.EVALUATE: 20,
    JobKind.DRAW: 20,
    JobKind.SAMPLE: 12,
    JobKind.SWEEP: 22,
    JobKind.SEARCH: 22,
    JobKind.RETAIN: 25,
    JobKind.DELETE: 26,
    JobKind.FOLLOW: 40,
    JobKind.TRAIN: 30,
    JobKind.EXTERNAL: 30,
}
"""Default priorities; lower is claimed first. Users wait for reconstructions, so these come first."""


class AttemptOutcome(StrEnum):
    """How an attempt ended. `expired`: its lease ran out. `released`: its job waits in the queue again; no failure."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RELEASED = "released"
    EXPIRED = "expired"
    PAUSED = "paused"


class FailureCause(StrEnum):
    """Why an attempt or job failed, as far as programs and people act differently on it."""

    OUT_OF_MEMORY = "out_of_memory"
    CONFIGURATION = "configuration"
    DATA = "data"
    LOST_NODE = "lost_node"
    """A process or machine died, or fell silent."""
    NO_ROOM = "no_room"
    STORE_AWAY = "store_away"
    CATALOG_AWAY = "catalog_away"
    NOT_FINITE = "not_finite"
    """Too many steps in a row whose gradients are not finite."""
    CODE = "code"
    """Everything else: an error in the program."""


LIVE_STATES = (JobState.QUEUED, JobState.RUNNING, JobState.PAUSED)
"""Of jobs that have not ended."""
LIVE_CONTENT = "state IN ('queued', 'running', 'paused', 'succeeded')"
"""A content key is unique among these jobs: an equal request gets the same job. Failed jobs may be requested again."""


CANCEL_REASON = "cancel_reason"
"""Key in the payload of a job that was cancelled for a reason."""
PAUSE_WITHDRAWN = "pause_withdrawn"
"""Key in the payload of a job: the fence of the latest attempt for which a user withdrew a pause."""


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
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    """The job that enqueued this one and needs it; NULL when a user asked for it."""
    allowed_unfinished: Mapped[int] = mapped_column(default=0)
    """The job may be claimed while at most so many of the jobs that it needs are unfinished."""
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
    pause_requested: Mapped[bool] = mapped_column(default=False)
    """A user wants the job of a run to stop after a checkpoint, until it is resumed."""
    release_requested: Mapped[bool] = mapped_column(default=False)
    """The running attempt should store a checkpoint and release the job: its process or its machine ends soon."""
    working: Mapped[bool] = mapped_column(default=False)
    """Of a running `train` job: whether its attempt trains. Before that it starts processes and reads a checkpoint."""
    progress: Mapped[float] = mapped_column(default=0.0)
    message: Mapped[str | None]
    trouble: Mapped[str | None]
    """What the running attempt waits for, in one sentence; NULL while nothing is wrong. Heartbeats do not change it."""
    result: Mapped[dict[str, Any] | None] = mapped_column(Json)
    error: Mapped[str | None]
    cause: Mapped[FailureCause | None] = mapped_column(open_enum_column(FailureCause, "cause"))
    """Of `error`, where it is known."""
    created_at: Mapped[float] = mapped_column(default=database_now())
    started_at: Mapped[float | None]
    """Time of the first claim."""
    finished_at: Mapped[float | None] = mapped_column(index=True)

    @property
    def cancel_reason(self) -> str | None:
        """Why the job was cancelled, in one sentence; None when a user cancelled it."""
        return self.payload.get(CANCEL_REASON)

    @property
    def pause_withdrawn(self) -> bool:
        """Whether a user withdrew a pause that the current attempt may have seen: the attempt may stop all the same."""
        return self.payload.get(PAUSE_WITHDRAWN) == self.fence

    @property
    def ids(self) -> dict[str, object]:
        """Log fields of every line about the job."""
        return {"run_id": self.run_id, "job_id": self.id, "attempt": self.fence or None, "request_id": self.request_id}


class JobDependency(Base):
    """The job `job_id` needs the job `needs_id`, and is not claimed while too many that it needs are unfinished."""

    __tablename__ = "job_dependencies"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    needs_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True, index=True)


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
    cause: Mapped[FailureCause | None] = mapped_column(open_enum_column(FailureCause, "cause"))


class Deletion(Base):
    """An object that no row names: it is deleted once its job has ended, and then this row."""

    __tablename__ = "deletions"

    key: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    """The job that may still name the object in a row; NULL when no job will."""
    run_id: Mapped[str | None] = mapped_column(ForeignKey("runs.id"), index=True)
    """The run that was deleted and whose object this is; NULL for every other object."""
    claimed_at: Mapped[float | None]
    """When a process began to delete the object; NULL when none has."""
    created_at: Mapped[float] = mapped_column(default=database_now())
