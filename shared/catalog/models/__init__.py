"""Every table of the catalog."""

from phema.shared.catalog.models.base import Base
from phema.shared.catalog.models.events import EventKind, RunEvent
from phema.shared.catalog.models.jobs import (
    CANCEL_REASON,
    LIVE_CONTENT,
    LIVE_STATES,
    PAUSE_WITHDRAWN,
    PRIORITY,
    Attempt,
    AttemptOutcome,
    Deletion,
    FailureCause,
    Job,
    JobDependency,
    JobKind,
    JobState,
)
from phema.shared.catalog.models.results import (
    Basis,
    Evaluation,
    Preview,
    PromotedModel,
    Reconstruction,
    Sample,
    SamplePart,
)
from phema.shared.catalog.models.runs import Checkpoint, HistoryPoint, Run, RunState, Snapshot
from phema.shared.catalog.models.service import IdempotencyRecord, ScrapeTarget
from phema.shared.catalog.models.studies import Study, StudyKind, StudyPoint

__all__ = [
    "CANCEL_REASON",
    "LIVE_CONTENT",
    "LIVE_STATES",
    "PAUSE_WITHDRAWN",
    "PRIORITY",
    "Attempt",
    "AttemptOutcome",
    "Base",
    "Basis",
    "Checkpoint",
    "Deletion",
    "Evaluation",
    "EventKind",
    "FailureCause",
    "HistoryPoint",
    "IdempotencyRecord",
    "Job",
    "JobDependency",
    "JobKind",
    "JobState",
    "Preview",
    "PromotedModel",
    "Reconstruction",
    "Run",
    "RunEvent",
    "RunState",
    "Sample",
    "SamplePart",
    "ScrapeTarget",
    "Snapshot",
    "Study",
    "StudyKind",
    "StudyPoint",
]
