"""From an error of an attempt to its cause, its sentence, and whether another attempt can help.

Another attempt goes on from the last checkpoint. It cannot help where the run itself must change: then the job ends at
once, and the sentence says what to change.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from phema.services.trainer.attempt import TrainingAttempt
from phema.services.trainer.control.ray_jobs import RayJob
from phema.services.trainer.control.worker_resources import CannotTrain
from phema.services.trainer.training.checkpoint import CheckpointError
from phema.services.trainer.training.failures import NotFinite, OutOfMemory, is_out_of_memory, tells_of_lack_of_memory
from phema.services.trainer.training.precision import UnsupportedPrecision
from phema.shared.catalog import AttemptOutcome, CatalogUnreachable, FailureCause, JobState, Transaction
from phema.shared.datasets import DatasetError
from phema.shared.snapshots import BucketMissing, SnapshotError, StoreDenied, StoreFull, StoreUnreachable

PERMANENT: dict[type[Exception], FailureCause] = {
    DatasetError: FailureCause.DATA,
    CannotTrain: FailureCause.CONFIGURATION,
    UnsupportedPrecision: FailureCause.CONFIGURATION,
    CheckpointError: FailureCause.CONFIGURATION,
    OutOfMemory: FailureCause.OUT_OF_MEMORY,
    NotFinite: FailureCause.NOT_FINITE,
}
"""Errors that every further attempt would meet again. Their messages are sentences for users."""
_STORE_AWAY = (StoreUnreachable, StoreDenied, StoreFull, BucketMissing)
_BY_NAME = {
    **{one.__name__: cause for one, cause in PERMANENT.items()},
    **{one.__name__: FailureCause.STORE_AWAY for one in _STORE_AWAY},
    CatalogUnreachable.__name__: FailureCause.CATALOG_AWAY,
    "MemoryError": FailureCause.OUT_OF_MEMORY,
    "OutOfMemoryError": FailureCause.OUT_OF_MEMORY,
    "ActorDiedError": FailureCause.LOST_NODE,
    "ActorUnavailableError": FailureCause.LOST_NODE,
    "NodeDiedError": FailureCause.LOST_NODE,
    "RayActorError": FailureCause.LOST_NODE,
    "WorkerCrashedError": FailureCause.LOST_NODE,
    "WorkerHealthCheckFailedError": FailureCause.LOST_NODE,
}
"""By the names of errors of other processes, which arrive as text or as Ray's own classes."""
_NAMES = re.compile(r"\b(" + "|".join(_BY_NAME) + r")\b")
_PEER_LOST = re.compile(r"connection (closed|reset) by peer|gloo|NCCL|DistBackendError", re.IGNORECASE)
_EXIT_CODE = re.compile(r"exit code (-?\d+)")
MISSING_SECRET_EXIT = 2
"""Exit code of a driver without its secrets."""


@dataclass(frozen=True)
class Failure:
    """`sentence` is for users. Without `retry`, another attempt would meet the error again."""

    cause: FailureCause
    sentence: str
    retry: bool


def failure_of(error: BaseException) -> Failure:
    """The failure of an attempt whose work raised `error`."""
    for kind, cause in PERMANENT.items():
        if isinstance(error, kind):
            return Failure(cause, str(error), retry=False)
    if isinstance(error, SnapshotError):
        cause = FailureCause.STORE_AWAY if isinstance(error, _STORE_AWAY) else FailureCause.DATA
        return Failure(cause, str(error), retry=True)
    if isinstance(error, CatalogUnreachable):
        return Failure(FailureCause.CATALOG_AWAY, str(error), retry=True)
    return Failure(_cause_of(error), f"Training failed: {root_cause(error)}", retry=True)


def _cause_of(error: BaseException) -> FailureCause:
    failed = _first_failed(error)
    if failed is not None:
        return _cause_of(failed[1])
    return FailureCause.OUT_OF_MEMORY if is_out_of_memory(error) else _cause_in(f"{type(error).__name__}: {error}")


def _cause_in(text: str) -> FailureCause:
    """From the names and phrases of errors in a text."""
    if (named := _NAMES.search(text)) is not None:
        return _BY_NAME[named.group(1)]
    if tells_of_lack_of_memory(text):
        return FailureCause.OUT_OF_MEMORY
    return FailureCause.LOST_NODE if _PEER_LOST.search(text) else FailureCause.CODE


def _first_failed(error: BaseException) -> tuple[int, BaseException] | None:
    """(rank, error) of the worker whose error explains the others'; None unless Ray Train lists failed workers.

    When a worker fails, its peers lose their connections to it.
    """
    failures: dict[int, BaseException] | None = getattr(error, "worker_failures", None)
    if not failures:
        return None
    return min(failures.items(), key=lambda item: (_cause_of(item[1]) is FailureCause.LOST_NODE, item[0]))


def root_cause(error: BaseException) -> str:
    """Why training failed, in one line: the last line of the traceback of the worker that failed first."""
    if (failed := _first_failed(error)) is not None:
        return f"worker {failed[0]}: {_last_line(failed[1]).removeprefix('RuntimeError: ')}"
    return f"{type(error).__name__}: {_last_line(error)}"


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1][:500] if lines else type(error).__name__


def cause_of_lost_driver(known: RayJob) -> FailureCause:
    """Why a driver ended without writing how, as far as Ray's message tells."""
    reason = known.reason
    if tells_of_lack_of_memory(reason):
        return FailureCause.OUT_OF_MEMORY
    code = _EXIT_CODE.search(known.message)
    if code is None or not 0 < int(code.group(1)) < 128:
        return FailureCause.LOST_NODE  # a signal, or Ray's own words about a dead node
    return FailureCause.CONFIGURATION if int(code.group(1)) == MISSING_SECRET_EXIT else FailureCause.CODE


def write_failure(tx: Transaction, attempt: TrainingAttempt, failure: Failure) -> JobState:
    """End the attempt, and the job unless another attempt can help. Raises LeaseLost."""
    sentence, retry = failure.sentence, failure.retry
    if retry and _repeats(tx, attempt, failure):
        sentence, retry = f"{sentence} (twice in a row, with no checkpoint in between)", False
    return tx.leases.fail(attempt.job_id, attempt.fence, sentence, retry=retry, cause=failure.cause)


def _repeats(tx: Transaction, attempt: TrainingAttempt, failure: Failure) -> bool:
    """Whether the attempt before failed with the same error of the program, and nothing was stored since."""
    job = tx.leases.assert_fence(attempt.job_id, attempt.fence)
    if failure.cause is not FailureCause.CODE or job.attempts < 2:
        return False
    counted = [one for one in tx.jobs.attempts(job.id) if one.outcome not in (None, AttemptOutcome.RELEASED)]
    return bool(counted) and (counted[-1].cause, counted[-1].error) == (failure.cause, failure.sentence)
