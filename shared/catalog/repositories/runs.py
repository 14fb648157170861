"""Rows of `/v1/runs`: training runs."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from sqlalchemy import case, literal, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from phema.shared.catalog.clock import database_now
from phema.shared.catalog.column_types import new_id
from phema.shared.catalog.errors import NameTaken, NotFound, RunDeleted
from phema.shared.catalog.models import PRIORITY, EventKind, Job, JobKind, JobState, Run, RunState
from phema.shared.catalog.pagination import Page, cut, decode_cursor, encode_cursor
from phema.shared.catalog.repositories.jobs import JobRepository
from phema.shared.catalog.repositories.repository import Repository, Rows
from phema.shared.catalog.repositories.run_events import RunEventRepository
from phema.shared.catalog.repositories.run_lists import Order, RunFilter, RunSort, natural_order, positions

_COMPARED_NAMES = 1000
"""Names that are compared with a misspelt one: a few milliseconds of work."""


def name_of_deleted(name: Any, run_id: Any) -> Any:
    """What the row of a deleted run is called, as text or as SQL. No run can have such a name."""
    return name + " (" + run_id + ")"


class RunRepository(Repository):
    def __init__(self, session: Session, jobs: JobRepository) -> None:
        super().__init__(session)
        self._jobs = jobs
        self._events = RunEventRepository(session)

    def create(
        self,
        name: str,
        config: dict[str, Any],
        config_hash: str,
        total_images: int,
        max_attempts: int = 5,
        *,
        parent: dict[str, Any] | None = None,
        num_images: int = 0,
    ) -> Run:
        """Create a run and its queued `train` job. Raises `NameTaken`.

        `parent`: what a fork begins from (`Run.parent`); `num_images`: the images that it has seen then.
        """
        run_id, job_id = new_id("run", 6), new_id("job")
        values = {
            "id": run_id,
            "name": name,
            "config": config,
            "config_hash": config_hash,
            "total_images": total_images,
            "num_images": num_images,
            "parent": parent,
            "job_id": job_id,
        }
        if not self._add(Run, values, ["name"]):
            raise NameTaken(name)
        self._jobs.enqueue(
            JobKind.TRAIN,
            payload={"run_id": run_id},
            content_key=f"train:{run_id}",
            run_id=run_id,
            max_attempts=max_attempts,
            job_id=job_id,
        )
        self._events.record(run_id, EventKind.CREATED, job_id=job_id, details={"total_images": total_images})
        return self.get(run_id)

    def restore(
        self,
        run_id: str,
        *,
        name: str,
        config: dict[str, Any],
        config_hash: str,
        total_images: int,
        num_images: int,
        parent: dict[str, Any] | None = None,
    ) -> bool:
        """Write a run that was found in the store, with an ended job. False when the catalog has the run already.

        An incomplete run is `failed`, so that a user decides whether to `resume` it. Raises `NameTaken`.
        """
        if self._first(select(Run).where(Run.id == run_id)) is not None:
            return False
        job_id = new_id("job")
        values = {
            "id": run_id,
            "name": name,
            "config": config,
            "config_hash": config_hash,
            "total_images": total_images,
            "num_images": num_images,
            "parent": parent,
            "job_id": job_id,
        }
        if not self._add(Run, values, ["name"]):
            raise NameTaken(name)
        complete = num_images >= total_images
        ended = {
            "id": job_id,
            "kind": JobKind.TRAIN,
            "state": JobState.SUCCEEDED if complete else JobState.FAILED,
            "priority": PRIORITY[JobKind.TRAIN],
            "run_id": run_id,
            "payload": {"run_id": run_id},
            "content_key": f"train:{run_id}",
            "max_attempts": 0,
            "progress": num_images / total_images,
            "error": None if complete else f"Found in the store at {num_images} of {total_images} images; resume it.",
            "finished_at": database_now(),
        }
        self._add(Job, ended, ["id"])
        self._events.record(run_id, EventKind.CREATED, job_id=job_id, reason="The run was found in the store.")
        return True

    def get(self, id_or_name: str) -> Run:
        """The run with this id, else with this name.

        Raises `NotFound`, which names a run with a similar name; for a deleted run its subclass `RunDeleted`.
        """
        by_id_first = case((Run.id == id_or_name, 0), else_=1)
        query = select(Run).where(or_(Run.id == id_or_name, Run.name == id_or_name)).order_by(by_id_first)
        try:
            return self._one(query.where(Run.deleted_at.is_(None)), "run", id_or_name)
        except NotFound:
            self._refuse_deleted(id_or_name)
            raise NotFound("run", id_or_name, self._similar(id_or_name)) from None

    def _refuse_deleted(self, id_or_name: str) -> None:
        """Raise RunDeleted if this was the id or the name of a run that was deleted."""
        if "\x00" in id_or_name:
            return
        named = or_(Run.id == id_or_name, Run.name == name_of_deleted(literal(id_or_name), Run.id))
        query = select(Run).where(named, Run.deleted_at.is_not(None)).order_by(Run.deleted_at.desc())
        if (row := self._first(query)) is not None:
            name = row.name.removesuffix(name_of_deleted("", row.id))
            raise RunDeleted(name, row.id, float(row.deleted_at or 0))

    def _similar(self, name: str) -> str | None:
        """The most similar name among those of the newest runs."""
        names = self._session.scalars(
            select(Run.name).where(Run.deleted_at.is_(None)).order_by(Run.seq.desc()).limit(_COMPARED_NAMES)
        )
        return next(iter(difflib.get_close_matches(name, list(names), n=1, cutoff=0.7)), None)

    def with_ids(self, ids: Iterable[str]) -> Rows[Run]:
        """The runs with these ids, in any order, also deleted ones."""
        return self._all(select(Run).where(Run.id.in_(list(ids))))

    def all(self) -> Rows[Run]:
        """Every run, oldest first."""
        return self._all(select(Run).where(Run.deleted_at.is_(None)).order_by(Run.seq))

    def list(
        self,
        *,
        state: RunState | None = None,
        name: str | None = None,
        origin: str | None = None,
        preset: str | None = None,
        sort: RunSort = RunSort.CREATED,
        order: Order | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> Page[Run]:
        """A page of runs, by default newest first. `name` is a part of the name; `order` None is `natural_order`.

        Raises `BadCursor`.
        """
        found = RunFilter(state, name, origin, preset)
        order = order or natural_order(sort)
        if sort is not RunSort.CREATED:
            return self._sorted(found, sort, order, after, limit)
        if order == "desc":
            return self._newest_first(found.apply(select(Run)), Run.seq, after, limit)
        query = found.apply(select(Run))
        if after is not None:
            query = query.where(Run.seq > decode_cursor(after, int)[0])
        return cut(self._all(query.order_by(Run.seq).limit(limit + 1)), limit, lambda row: encode_cursor(row.seq))

    def _sorted(self, found: RunFilter, sort: RunSort, order: Order, after: str | None, limit: int) -> Page[Run]:
        places = self._session.execute(positions(found, sort, order, after).limit(limit + 1)).all()
        rows = {row.seq: row for row in self._all(select(Run).where(Run.seq.in_([place[0] for place in places])))}
        shown = cut(places, limit, lambda place: encode_cursor(place[1], place[0]))
        return Page([rows[place[0]] for place in shown.items], shown.next_cursor)

    def rename(self, run_id: str, name: str) -> Run:
        """Give the run another name. Raises `NameTaken`. Lock the run first."""
        try:
            with self._session.begin_nested():
                self._session.execute(update(Run).where(Run.id == run_id).values(name=name))
        except IntegrityError as error:
            raise NameTaken(name) from error
        return self.get(run_id)

    def set_progress(self, run_id: str, num_images: int) -> None:
        """Set the number of images seen. A resume may lower it. Raises `NotFound`."""
        statement = update(Run).where(Run.id == run_id).values(num_images=num_images).returning(Run.id)
        if self._session.scalars(statement).one_or_none() is None:
            raise NotFound("run", run_id)

    def lock(self, run_id: str) -> None:
        """Lock the run until the transaction ends: one transaction at a time decides which results need a job.

        Raises `NotFound`, for a deleted run its subclass `RunDeleted`.
        """
        query = select(Run.id).where(Run.id == run_id, Run.deleted_at.is_(None)).with_for_update(key_share=True)
        if self._session.scalars(query).one_or_none() is None:
            self._refuse_deleted(run_id)
            raise NotFound("run", run_id)
