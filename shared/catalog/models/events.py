"""Table of the events of runs: what happened to each, when, and why."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from phema.shared.catalog.clock import database_now
from phema.shared.catalog.column_types import Json, Sequence, open_enum_column
from phema.shared.catalog.models.base import Base


class EventKind(StrEnum):
    """What happened. The first seven are the states of a run (`RunState`)."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    CREATED = "created"
    PAUSE_REQUESTED = "pause_requested"
    CANCEL_REQUESTED = "cancel_requested"
    RESUMED = "resumed"
    EXTENDED = "extended"
    RENAMED = "renamed"
    FORKED = "forked"
    """Another run began from this one."""
    SILENT = "silent"
    """The writer of an external run has not written for longer than it may."""
    HEARD = "heard"
    """The writer of an external run that was silent writes again."""
    DELETE_REQUESTED = "delete_requested"
    RESTORED = "restored"
    """A requested deletion was withdrawn."""
    DELETED = "deleted"


class RunEvent(Base):
    """One recorded change of a run. Rows are only added, in the transaction of the change."""

    __tablename__ = "run_events"
    __table_args__ = (Index("ix_run_events_run_id_seq", "run_id", "seq"),)

    seq: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    attempt: Mapped[int | None]
    """Fence of the attempt that the event is about."""
    kind: Mapped[EventKind] = mapped_column(open_enum_column(EventKind, "kind"))
    reason: Mapped[str | None]
    """Why, in one sentence; NULL where the kind says it all."""
    details: Mapped[dict[str, Any] | None] = mapped_column(Json)
    """Values before and after, ids of other runs, the cause of a failure."""
    created_at: Mapped[float] = mapped_column(default=database_now())
