"""Tables of studies: sweeps, searches and continuous evaluations, each of which evaluates many points."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column, relationship

from phema.shared.catalog.clock import database_now
from phema.shared.catalog.column_types import Json, Sequence, enum_column
from phema.shared.catalog.models.base import Base
from phema.shared.catalog.models.jobs import Job, JobState
from phema.shared.catalog.models.results import Evaluation


class StudyKind(StrEnum):
    """Who chooses the points: the user (sweep), a model of the figure (search), or the run's progress (follow)."""

    SWEEP = "sweep"
    SEARCH = "search"
    FOLLOW = "follow"


class Study(Base):
    """A request for many evaluations of a run. Its state is that of its job, the latest if it was extended."""

    __tablename__ = "studies"
    __table_args__ = (
        Index("ix_studies_kind_seq", "kind", "seq"),
        Index("ix_studies_run_id_seq", "run_id", "seq"),
    )

    seq: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[StudyKind] = mapped_column(enum_column(StudyKind, "kind"))
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    spec: Mapped[dict[str, Any]]
    """The request, complete."""
    content_key: Mapped[str] = mapped_column(unique=True)
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    progress: Mapped[dict[str, Any] | None] = mapped_column(Json)
    """What the coordinator has decided so far, so that it continues after a crash."""
    result: Mapped[dict[str, Any] | None] = mapped_column(Json)
    """The answer: the best point with its interval; set when the study is done."""
    created_at: Mapped[float] = mapped_column(default=database_now())

    job: Mapped[Job | None] = relationship(lazy="joined", viewonly=True)

    @property
    def state(self) -> JobState:
        """That of the job. A job that waits for the points in the queue, once it was claimed, counts as running."""
        if self.job is None:
            return JobState.QUEUED
        waits = self.job.state is JobState.QUEUED and self.job.started_at is not None
        return JobState.RUNNING if waits else self.job.state


class StudyPoint(Base):
    """One point of a study. `evaluation_id` is set once its evaluation was requested."""

    __tablename__ = "study_points"

    study_id: Mapped[str] = mapped_column(ForeignKey("studies.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    stage: Mapped[int] = mapped_column(default=0)
    """Of a search: the step that chose the point."""
    point: Mapped[dict[str, Any]]
    """Weights, guide and recipe of the point."""
    reconstruction_id: Mapped[str | None] = mapped_column(ForeignKey("reconstructions.id"))
    guide_reconstruction_id: Mapped[str | None] = mapped_column(ForeignKey("reconstructions.id"))
    evaluation_id: Mapped[str | None] = mapped_column(ForeignKey("evaluations.id"), index=True)
    error: Mapped[str | None]
    """Why the point has no figures, in one sentence."""

    evaluation: Mapped[Evaluation | None] = relationship(lazy="joined", viewonly=True)
