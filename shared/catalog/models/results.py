"""Tables of results: a row states a request, and a job adds the result once."""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from phema.shared.catalog.clock import database_now
from phema.shared.catalog.column_types import Figures, Json, Sequence
from phema.shared.catalog.models.base import Base
from phema.shared.catalog.models.jobs import Job, JobState


class Result:
    """A row that states a request. A job sets `result_column` once the result exists."""

    result_column: ClassVar[str]
    job: Mapped[Job | None]

    @property
    def state(self) -> JobState:
        """`succeeded` once the result exists, whatever later jobs did; before that, the state of the job."""
        if self._done:
            return JobState.SUCCEEDED
        return JobState.QUEUED if self.job is None else self.job.state

    @property
    def needs_job(self) -> bool:
        """Whether there is neither a result nor a job that may still make it."""
        return not self._done and (self.job is None or self.job.state.terminal)

    @property
    def _done(self) -> bool:
        return getattr(self, self.result_column) is not None


class Reconstruction(Result, Base):
    """One requested profile of a run at one time. `key` is set once the weights are in the store."""

    result_column = "key"
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


class Basis(Result, Base):
    """A few orthonormal vectors that stand for all snapshots of a run up to one time.

    `vectors` is set once the vectors are in the store.
    """

    result_column = "vectors"
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


class Evaluation(Result, Base):
    """Figures and pictures of one reconstruction under one recipe. `figures` is set once they exist."""

    result_column = "figures"
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
    errors: Mapped[dict[str, float] | None] = mapped_column(Figures(none_as_null=True))
    """Standard error of each figure that has one."""
    replicates: Mapped[dict[str, list[float]] | None] = mapped_column(Json, deferred=True)
    """By figure: its values without one block of pictures each, from which errors of differences are computed."""
    provenance: Mapped[dict[str, Any] | None] = mapped_column(Json)
    """What the figures were computed with: extractors, references, numbers of pictures, speed."""
    pictures_key: Mapped[str | None]
    archive: Mapped[dict[str, Any] | None] = mapped_column(Json)
    """`{key, size, sha256}` of the zip file of all pictures, for recipes that keep them."""
    created_at: Mapped[float] = mapped_column(default=database_now())

    job: Mapped[Job | None] = relationship(lazy="joined", viewonly=True)
    reconstruction: Mapped[Reconstruction] = relationship(lazy="joined", innerjoin=True, viewonly=True)


class SamplePart(Result, Base):
    """Some of an evaluation's pictures. Evaluations with equal recipes share them. `result` is set once their features
    are stored."""

    result_column = "result"
    __tablename__ = "sample_parts"
    __table_args__ = (Index("ix_sample_parts_run_id_seq", "run_id", "seq"),)

    seq: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(unique=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    content_key: Mapped[str] = mapped_column(unique=True)
    drawing: Mapped[str] = mapped_column(index=True)
    """Hash of everything but the seeds: parts of one drawing can be put together."""
    request: Mapped[dict[str, Any]]
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    result: Mapped[dict[str, Any] | None] = mapped_column(Json)
    """`{key, size, sha256}` of the object, and how long it took."""
    created_at: Mapped[float] = mapped_column(default=database_now())

    job: Mapped[Job | None] = relationship(lazy="joined", viewonly=True)


class Sample(Result, Base):
    """Pictures drawn from a reconstruction without scoring them. `result` is set once they are stored."""

    result_column = "result"
    __tablename__ = "samples"
    __table_args__ = (Index("ix_samples_run_id_seq", "run_id", "seq"),)

    seq: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(unique=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    reconstruction_id: Mapped[str] = mapped_column(ForeignKey("reconstructions.id"), index=True)
    request: Mapped[dict[str, Any]]
    content_key: Mapped[str] = mapped_column(unique=True)
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    result: Mapped[dict[str, Any] | None] = mapped_column(Json)
    """`{key, size, sha256}` of the file, and how long it took."""
    created_at: Mapped[float] = mapped_column(default=database_now())

    job: Mapped[Job | None] = relationship(lazy="joined", viewonly=True)
    reconstruction: Mapped[Reconstruction] = relationship(lazy="joined", innerjoin=True, viewonly=True)


class Preview(Result, Base):
    """Pictures of an average whose weights are not stored. `result` is set once they are stored. Only the newest of a
    run are kept."""

    result_column = "result"
    __tablename__ = "previews"
    __table_args__ = (Index("ix_previews_run_id_seq", "run_id", "seq"),)

    seq: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(unique=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    num_images: Mapped[int]
    profile: Mapped[dict[str, Any]]
    request: Mapped[dict[str, Any]]
    """What is drawn from the weights: a `SampleRequest`."""
    content_key: Mapped[str] = mapped_column(unique=True)
    plan: Mapped[dict[str, Any]]
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    result: Mapped[dict[str, Any] | None] = mapped_column(Json)
    """`{key, size, sha256}` of the picture, and how long it took."""
    created_at: Mapped[float] = mapped_column(default=database_now())

    job: Mapped[Job | None] = relationship(lazy="joined", viewonly=True)


class PromotedModel(Base):
    """A reconstruction that a user named: kept, versioned, with its figures as they were then."""

    __tablename__ = "models"
    __table_args__ = (UniqueConstraint("name", "version"),)

    seq: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    version: Mapped[int]
    """1, 2, … for each name."""
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), index=True)
    reconstruction_id: Mapped[str] = mapped_column(ForeignKey("reconstructions.id"), index=True)
    document: Mapped[dict[str, Any]]
    """Figures with their errors, lineage, and what the user wrote about the model."""
    created_at: Mapped[float] = mapped_column(default=database_now())

    reconstruction: Mapped[Reconstruction] = relationship(lazy="joined", innerjoin=True, viewonly=True)
