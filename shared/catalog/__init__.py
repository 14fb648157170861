"""The database of runs, snapshots, results and jobs, on SQLite or PostgreSQL.

catalog = Catalog("sqlite:////path/catalog.db")
catalog.upgrade()
with catalog.transaction() as tx:
    run = tx.runs.create("digits", config, config_hash, total_images=76_800)
"""

from phema.shared.catalog.catalog import Catalog, Transaction
from phema.shared.catalog.content_keys import content_key
from phema.shared.catalog.errors import (
    BadCursor,
    BeingDeleted,
    CatalogError,
    CatalogUnreachable,
    LeaseLost,
    NameTaken,
    NotFound,
    RunDeleted,
    RunToBeDeleted,
    SchemaOutOfDate,
    WrongState,
)
from phema.shared.catalog.models import (
    PRIORITY,
    Attempt,
    AttemptOutcome,
    Basis,
    Checkpoint,
    Evaluation,
    EventKind,
    FailureCause,
    HistoryPoint,
    IdempotencyRecord,
    Job,
    JobKind,
    JobState,
    Preview,
    PromotedModel,
    Reconstruction,
    Run,
    RunEvent,
    RunState,
    Sample,
    SamplePart,
    ScrapeTarget,
    Snapshot,
    Study,
    StudyKind,
    StudyPoint,
)
from phema.shared.catalog.pagination import Page
from phema.shared.catalog.repositories.leases import retry_delay, submission_id
from phema.shared.catalog.repositories.queue_stats import EndedCounts, QueueStats
from phema.shared.catalog.repositories.run_events import EventCounts
from phema.shared.catalog.repositories.run_lists import Order, RunSort

__all__ = [
    "PRIORITY",
    "Attempt",
    "AttemptOutcome",
    "BadCursor",
    "Basis",
    "BeingDeleted",
    "Catalog",
    "CatalogError",
    "CatalogUnreachable",
    "Checkpoint",
    "EndedCounts",
    "Evaluation",
    "EventCounts",
    "EventKind",
    "FailureCause",
    "HistoryPoint",
    "IdempotencyRecord",
    "Job",
    "JobKind",
    "JobState",
    "LeaseLost",
    "NameTaken",
    "NotFound",
    "Order",
    "Page",
    "Preview",
    "PromotedModel",
    "QueueStats",
    "Reconstruction",
    "Run",
    "RunDeleted",
    "RunEvent",
    "RunSort",
    "RunState",
    "RunToBeDeleted",
    "Sample",
    "SamplePart",
    "SchemaOutOfDate",
    "ScrapeTarget",
    "Snapshot",
    "Study",
    "StudyKind",
    "StudyPoint",
    "Transaction",
    "WrongState",
    "content_key",
    "retry_delay",
    "submission_id",
]
