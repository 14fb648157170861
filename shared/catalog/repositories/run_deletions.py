"""Deletions of whole runs: the request, what stands against it, and the transaction that removes the rows.

A deletion has two phases. The request (`request`) only sets `Run.delete_at`. A job of kind `delete` later removes all
rows of the run's results and lists their objects for deletion, in one transaction (`remove`). The row of the run, its
jobs and its events stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.orm import Session, aliased

from phema.shared.catalog.clock import database_now
from phema.shared.catalog.models import (
    LIVE_STATES,
    Base,
    Basis,
    Checkpoint,
    Evaluation,
    HistoryPoint,
    Job,
    JobDependency,
    JobKind,
    Preview,
    PromotedModel,
    Reconstruction,
    Run,
    Sample,
    SamplePart,
    Snapshot,
    Study,
    StudyPoint,
)
from phema.shared.catalog.repositories.deletions import DeletionRepository
from phema.shared.catalog.repositories.repository import Repository, Rows
from phema.shared.catalog.repositories.run_forks import RunForkRepository
from phema.shared.catalog.repositories.runs import RunRepository, name_of_deleted

_UNSYNCHRONIZED = {"synchronize_session": False}
_IN_ORDER = (Sample, Evaluation, Preview, SamplePart, Reconstruction, Basis, Snapshot, Checkpoint, HistoryPoint)
"""Tables of a run's results; rows that name others come first."""


@dataclass
class StoredKind:
    """Objects of one kind. The sizes of pictures of evaluations are not recorded; they count as 0 bytes."""

    kind: str
    keys: list[str] = field(default_factory=list)
    size: int = 0

    def add(self, key: str | None, size: int | None = 0) -> None:
        if key is not None:
            self.keys.append(key)
            self.size += size or 0


@dataclass(frozen=True)
class ForeignUse:
    """A job of another run that needs something of this one."""

    job: Job
    run: str
    """Name of the other run."""


class RunDeletionRepository(Repository):
    def __init__(
        self, session: Session, runs: RunRepository, forks: RunForkRepository, deletions: DeletionRepository
    ) -> None:
        super().__init__(session)
        self._runs, self._forks, self._deletions = runs, forks, deletions

    def request(self, run_id: str, grace_seconds: float) -> float:
        """The time from which the run is deleted, which this sets. Lock the run first."""
        at = float(self._session.scalars(select(database_now() + grace_seconds)).one())
        self._set_time(run_id, at)
        return at

    def withdraw(self, run_id: str) -> None:
        """The run is not deleted. Lock the run first."""
        self._set_time(run_id, None)

    def _set_time(self, run_id: str, at: float | None) -> None:
        self._session.execute(update(Run).where(Run.id == run_id).values(delete_at=at))

    def job(self, run_id: str) -> Job | None:
        """The run's newest job of kind `delete`."""
        return self._first(select(Job).where(Job.run_id == run_id, Job.kind == JobKind.DELETE).order_by(Job.seq.desc()))

    def has_begun(self, run_id: str) -> bool:
        """Whether a process has begun to delete the run, so that it cannot be restored."""
        query = select(Job.id).where(Job.run_id == run_id, Job.kind == JobKind.DELETE, Job.fence > 0).limit(1)
        return self._session.scalars(query).first() is not None

    def postpone(self, job: Job, at: float, *, with_models: bool) -> None:
        """Set when a queued job of kind `delete` is due, and whether it deletes promoted models."""
        job.not_before = at
        job.payload = {**job.payload, "models": with_models}
        self._session.flush()
        self._ring()

    def models(self, run_id: str) -> Rows[PromotedModel]:
        """The models that were promoted from the run."""
        return self._all(select(PromotedModel).where(PromotedModel.run_id == run_id).order_by(PromotedModel.seq))

    def foreign_uses(self, run_id: str) -> list[ForeignUse]:
        """Unfinished jobs of other runs that need weights or jobs of this one."""
        found: dict[str, Job] = {}
        for query in (self._needing_jobs(run_id), self._guided_evaluations(run_id), self._guided_studies(run_id)):
            for job in query:
                found[job.id] = job
        names = {run.id: run.name for run in self._runs.with_ids({str(job.run_id) for job in found.values()})}
        return [ForeignUse(job, names.get(str(job.run_id), str(job.run_id))) for job in found.values()]

    def _needing_jobs(self, run_id: str) -> Iterable[Job]:
        needed = aliased(Job)
        return self._all(
            select(Job)
            .join(JobDependency, JobDependency.job_id == Job.id)
            .join(needed, needed.id == JobDependency.needs_id)
            .where(needed.run_id == run_id, needed.state.in_(LIVE_STATES), *self._of_others(run_id))
        )

    def _guided_evaluations(self, run_id: str) -> Iterable[Job]:
        """Of evaluations, samples and previews whose guide is of this run."""
        ours = select(Reconstruction.id).where(Reconstruction.run_id == run_id)
        for row, guide in (
            (Evaluation, Evaluation.recipe["guide_id"].as_string()),
            (Sample, Sample.request["guide_id"].as_string()),
            (Preview, Preview.request["guide_id"].as_string()),
        ):
            yield from self._all(
                select(Job).join(row, row.job_id == Job.id).where(guide.in_(ours), *self._of_others(run_id))
            )

    def _guided_studies(self, run_id: str) -> Iterable[Job]:
        live = self._all(select(Study).join(Job, Job.id == Study.job_id).where(*self._of_others(run_id)))
        return [study.job for study in live if study.job is not None and run_id in _guides(study)]

    def _of_others(self, run_id: str) -> tuple[ColumnElement[bool], ...]:
        return Job.state.in_(LIVE_STATES), Job.run_id != run_id

    def objects(self, run_id: str) -> list[StoredKind]:
        """The objects that rows of the run name, by kind, without kinds of which there are none."""
        return [kind for kind in self._objects(run_id) if kind.keys]

    def _objects(self, run_id: str) -> Iterator[StoredKind]:
        for kind, row in (("snapshots", Snapshot), ("checkpoints", Checkpoint), ("reconstructions", Reconstruction)):
            stored = StoredKind(kind)
            for key, size in self._session.execute(select(row.key, row.size).where(row.run_id == run_id)):
                stored.add(key, size)
            yield stored
        bases = StoredKind("bases")
        for vectors in self._session.scalars(select(Basis.vectors).where(Basis.run_id == run_id)):
            for vector in vectors or ():
                bases.add(vector["key"], vector["size"])
        yield bases
        evaluations = StoredKind("evaluations")
        rows = select(Evaluation.pictures_key, Evaluation.archive).where(Evaluation.run_id == run_id)
        for pictures, archive in self._session.execute(rows):
            evaluations.add(pictures)
            if archive is not None:
                evaluations.add(archive["key"], archive["size"])
        for part in self._session.scalars(select(SamplePart.result).where(SamplePart.run_id == run_id)):
            if part is not None and part.get("key") is not None:
                evaluations.add(part["key"], part.get("size"))
        yield evaluations
        for kind, drawn in (("samples", Sample), ("previews", Preview)):
            stored = StoredKind(kind)
            for result in self._session.scalars(select(drawn.result).where(drawn.run_id == run_id)):
                if result is not None:
                    stored.add(result["key"], result["size"])
            yield stored

    def results(self, run_id: str) -> dict[str, int]:
        """Number of rows of each kind of result, without kinds of which there are none."""
        kinds: tuple[tuple[str, type[Base]], ...] = (
            ("snapshots", Snapshot),
            ("checkpoints", Checkpoint),
            ("reconstructions", Reconstruction),
            ("bases", Basis),
            ("evaluations", Evaluation),
            ("samples", Sample),
            ("previews", Preview),
            ("studies", Study),
        )
        counts = {kind: self._count(model, run_id) for kind, model in kinds}
        return {kind: count for kind, count in counts.items() if count}

    def _count(self, model: type[Base], run_id: str) -> int:
        query = select(func.count()).select_from(model).where(_run_of(model) == run_id)
        return self._session.scalar(query) or 0

    def remove(self, run_id: str, keys: Iterable[str]) -> None:
        """Remove all rows of the run's results, and list their objects and those under `keys` for deletion.

        The run's name becomes free. No job of the run may be unfinished, except the one that deletes it.
        """
        named = [key for kind in self.objects(run_id) for key in kind.keys]
        self._deletions.release(dict.fromkeys([*named, *keys]), run_id=run_id)
        studies = select(Study.id).where(Study.run_id == run_id)
        self._execute(delete(StudyPoint).where(StudyPoint.study_id.in_(studies)))
        ours = select(Reconstruction.id).where(Reconstruction.run_id == run_id)
        # Finished points of other runs, which keep their figures.
        self._execute(
            update(StudyPoint).where(StudyPoint.guide_reconstruction_id.in_(ours)).values(guide_reconstruction_id=None)
        )
        self._execute(delete(Study).where(Study.run_id == run_id))
        self._execute(delete(PromotedModel).where(PromotedModel.run_id == run_id))
        for model in _IN_ORDER:
            self._execute(delete(model).where(_run_of(model) == run_id))
        self._execute(
            update(Run)
            .where(Run.id == run_id)
            .values(name=name_of_deleted(Run.name, Run.id), deleted_at=database_now())
        )

    def is_removed(self, run_id: str) -> bool:
        """Whether `remove` was committed for the run."""
        return self._session.scalar(select(Run.deleted_at).where(Run.id == run_id)) is not None

    def _execute(self, statement: object) -> None:
        self._session.execute(statement.execution_options(**_UNSYNCHRONIZED))  # type: ignore[attr-defined]


def _run_of(model: type[Base]) -> ColumnElement[str]:
    column: ColumnElement[str] = model.run_id  # type: ignore[attr-defined]
    return column


def _guides(study: Study) -> set[str]:
    """Ids of the runs that guide a study."""
    guide = study.spec.get("guide")
    return {str(guide["run"])} if isinstance(guide, dict) and guide.get("run") else set()
