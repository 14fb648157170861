"""The catalog: one database that a process opens once and uses in short transactions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from sqlalchemy import Engine, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from phema.shared.catalog import schema_version
from phema.shared.catalog.clock import database_now
from phema.shared.catalog.doorbell import CHANGES, WORK, Bell, Doorbell, doorbell
from phema.shared.catalog.engine import (
    ANSWER_SECONDS,
    UPGRADE_HINT,
    describe,
    has_written,
    note_writes,
    open_engine,
    parse_url,
    read_only,
    refuses_writes,
    sqlite_path,
    translate,
    use_write_ahead_log,
)
from phema.shared.catalog.errors import CatalogUnreachable, SchemaOutOfDate
from phema.shared.catalog.repositories.bases import BasisRepository
from phema.shared.catalog.repositories.changes import ChangeRepository
from phema.shared.catalog.repositories.checkpoints import CheckpointRepository
from phema.shared.catalog.repositories.deletions import DeletionRepository
from phema.shared.catalog.repositories.evaluations import EvaluationRepository
from phema.shared.catalog.repositories.external_runs import ExternalRunRepository
from phema.shared.catalog.repositories.history import HistoryRepository
from phema.shared.catalog.repositories.idempotency import IdempotencyRepository
from phema.shared.catalog.repositories.jobs import JobRepository
from phema.shared.catalog.repositories.leases import LeaseRepository
from phema.shared.catalog.repositories.models import ModelRepository
from phema.shared.catalog.repositories.previews import PreviewRepository
from phema.shared.catalog.repositories.queue_stats import QueueStatsRepository
from phema.shared.catalog.repositories.reconstructions import ReconstructionRepository
from phema.shared.catalog.repositories.repository import RINGS
from phema.shared.catalog.repositories.run_control import RunControlRepository
from phema.shared.catalog.repositories.run_deletions import RunDeletionRepository
from phema.shared.catalog.repositories.run_events import RunEventRepository
from phema.shared.catalog.repositories.run_forks import RunForkRepository
from phema.shared.catalog.repositories.run_overviews import RunOverviewRepository
from phema.shared.catalog.repositories.runs import RunRepository
from phema.shared.catalog.repositories.sample_parts import SamplePartRepository
from phema.shared.catalog.repositories.samples import SampleRepository
from phema.shared.catalog.repositories.scrape_targets import ScrapeTargetRepository
from phema.shared.catalog.repositories.snapshots import SnapshotRepository
from phema.shared.catalog.repositories.storage import StorageRepository
from phema.shared.catalog.repositories.studies import StudyRepository

UPGRADE_SECONDS = 3600.0
"""Longest statement of a migration, and longest wait for another process that migrates."""


class Transaction:
    """The repositories of the catalog, within one transaction. Only one thread may use it.

    `tx.NAME` is defined in `repositories/NAME.py`, under the name of the API's resource: `tx.runs` serves `/v1/runs`.
    """

    def __init__(self, session: Session, request_id: str | None = None) -> None:
        self.jobs = JobRepository(session, request_id)
        self.leases = LeaseRepository(session)
        self.queue_stats = QueueStatsRepository(session)
        self.runs = RunRepository(session, self.jobs)
        self.run_overviews = RunOverviewRepository(session)
        self.run_events = RunEventRepository(session)
        self.run_control = RunControlRepository(session, self.jobs, self.runs)
        self.run_forks = RunForkRepository(session)
        self.external_runs = ExternalRunRepository(session, self.runs)
        self.snapshots = SnapshotRepository(session)
        self.checkpoints = CheckpointRepository(session)
        self.deletions = DeletionRepository(session)
        self.run_deletions = RunDeletionRepository(session, self.runs, self.run_forks, self.deletions)
        self.history = HistoryRepository(session)
        self.reconstructions = ReconstructionRepository(session, self.runs)
        self.bases = BasisRepository(session, self.runs)
        self.evaluations = EvaluationRepository(session, self.runs)
        self.sample_parts = SamplePartRepository(session, self.runs)
        self.samples = SampleRepository(session, self.runs)
        self.previews = PreviewRepository(session, self.runs)
        self.studies = StudyRepository(session, self.runs)
        self.models = ModelRepository(session)
        self.idempotency = IdempotencyRepository(session)
        self.scrape_targets = ScrapeTargetRepository(session)
        self.changes = ChangeRepository(session)
        self.storage = StorageRepository(session)


class Catalog:
    """The database at `sqlite:///PATH` or `postgresql://…`. Connects on first use. Threads may share it."""

    def __init__(self, url: str, *, answer_seconds: float = ANSWER_SECONDS) -> None:
        """`answer_seconds`: a statement without an answer after this time raises CatalogUnreachable.

        Then PostgreSQL is silent, or another process holds SQLite's file. Processes that hold leases give less than
        one lease.
        """
        self._url = parse_url(url)
        self._engine = open_engine(self._url, answer_seconds)
        note_writes(self._engine)
        self._reader = read_only(self._engine)
        path = sqlite_path(self._url)
        self._work, self._changes = doorbell(self._engine, path, WORK), doorbell(self._engine, path, CHANGES)

    def __repr__(self) -> str:
        return f"Catalog({self.location!r})"

    @property
    def location(self) -> str:
        """The URL without its password."""
        return describe(self._url)

    def upgrade(self) -> None:
        """Migrate the schema to this version of phema. Creates SQLite's file and folder if they are missing.

        Several processes may call it at once. Raises `CatalogUnreachable`, and `SchemaOutOfDate` when a newer phema
        wrote the schema.
        """
        path = sqlite_path(self._url)
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                reason = f"its folder cannot be created ({error.strerror})"
                raise CatalogUnreachable(self.location, reason) from error
        engine = open_engine(self._url, UPGRADE_SECONDS)
        try:
            self._migrate(engine)
        finally:
            engine.dispose()

    def _migrate(self, engine: Engine) -> None:
        with self._translated(), engine.connect() as connection:
            if engine.dialect.name == "sqlite":
                # Both pragmas have no effect inside a transaction. Without foreign keys, rebuilding a table does not
                # cascade. A detached connection is closed afterwards, and the setting ends with it.
                driver = connection.connection.driver_connection
                assert driver is not None
                connection.detach()
                use_write_ahead_log(driver)
                driver.execute("PRAGMA foreign_keys=OFF").close()
            with connection.begin():
                schema_version.upgrade(connection, self.location)

    def check(self) -> None:
        """Raise `CatalogUnreachable` or `SchemaOutOfDate` unless the catalog can be read and written now."""
        path = sqlite_path(self._url)
        try:
            missing = path is not None and not path.exists()
        except OSError as error:
            raise CatalogUnreachable(self.location, error.strerror or str(error)) from error
        if missing:
            raise SchemaOutOfDate(f"There is no catalog at {self.location} yet: {UPGRADE_HINT}.")
        with self._translated(), self._engine.begin() as connection:
            if refuses_writes(connection):
                raise CatalogUnreachable(self.location, "it is read-only")
            schema_version.check(connection, self.location)

    def now(self) -> float:
        """The database's clock, in seconds since the epoch. Raises `CatalogUnreachable`."""
        with self._translated(), self._reader.connect() as connection:
            return connection.scalars(select(database_now())).one()

    @contextmanager
    def transaction(self, *, read_only: bool = False, request_id: str | None = None) -> Iterator[Transaction]:
        """Commits at the end, rolls back on an exception. Rows stay usable after the transaction.

        Args:
            read_only: forbid writes. On SQLite, such transactions do not wait for writers.
            request_id: stored in every job that the transaction enqueues, for the logs.

        Raises `CatalogUnreachable` and `SchemaOutOfDate`.
        """
        engine = self._reader if read_only else self._engine
        with self._translated(), Session(engine, expire_on_commit=False) as session, session.begin():
            yield Transaction(session, request_id)
            bells = [] if read_only else self._bells(session)
            for bell in bells:
                bell.ring_in(session)
        for bell in bells:
            bell.ring_after()

    def _bells(self, session: Session) -> list[Doorbell]:
        """The doorbells that the session's transaction rings."""
        work = [self._work] if RINGS in session.info else []
        changes = [self._changes] if session.in_transaction() and has_written(session.connection()) else []
        return [*work, *changes]

    def listening(self) -> AbstractContextManager[Bell]:
        """Yields a bell that rings whenever work becomes available. Raises CatalogUnreachable and OSError."""
        return self._listening(self._work)

    def listening_for_changes(self) -> AbstractContextManager[Bell]:
        """Yields a bell that rings whenever anything has been written. Raises CatalogUnreachable and OSError."""
        return self._listening(self._changes)

    @contextmanager
    def _listening(self, doorbell: Doorbell) -> Iterator[Bell]:
        try:
            with self._translated(), doorbell.listening() as bell:
                yield bell
        except getattr(self._engine.dialect.dbapi, "Error", ()) as error:
            # The doorbell talks to the driver itself, whose errors SQLAlchemy does not wrap.
            raise CatalogUnreachable(self.location, str(error)) from error

    def ring(self) -> None:
        """Wake everybody who waits for work."""
        with self._translated(), Session(self._engine) as session, session.begin():
            self._work.ring_in(session)
        self._work.ring_after()

    def close(self) -> None:
        """Close all connections; a later transaction opens new ones."""
        self._engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            translated = translate(error, self._url)
            if translated is None:
                raise
            raise translated from error
