"""Tasks that a slot sends to its actor. Those of evaluations are in `evaluation.tasks`. Plain values: no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from phema.services.phema_worker.evaluation.tasks import EvaluationTask, Weights
from phema.services.phema_worker.task_outcomes import Done
from phema.shared.snapshots.combining.wanted_output import WantedOutput
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot


@dataclass(frozen=True, kw_only=True)
class Output(WantedOutput):
    """One file to write. `coefficients` are in the order of the task's `inputs`."""

    result_id: str
    """The row that will name it."""


@dataclass(frozen=True)
class ReconstructTask:
    """Write all outputs in one pass over the inputs, which are in order of time. The last has the outputs' time."""

    token: str
    inputs: tuple[StoredSnapshot, ...]
    outputs: tuple[Output, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """Every object the task may write."""
        return tuple(output.key for output in self.outputs)

    @property
    def bytes_to_read(self) -> int:
        return sum(snapshot.size for snapshot in self.inputs)


@dataclass(frozen=True)
class CompactTask(ReconstructTask):
    """A reconstruction whose outputs are the vectors of a basis."""

    basis_id: str = ""


@dataclass(frozen=True)
class RetainTask:
    """Delete the objects of retired snapshots. Their rows are removed afterwards."""

    token: str
    snapshot_ids: tuple[str, ...]
    doomed: tuple[str, ...]
    bytes_to_free: int

    @property
    def keys(self) -> tuple[str, ...]:
        """Empty: the task writes nothing."""
        return ()


@dataclass(frozen=True)
class SampleTask:
    """Draw pictures into one file, without scoring them."""

    token: str
    sample_id: str
    weights: Weights
    guide: Weights | None
    config: dict[str, Any]
    """The run's configuration as JSON."""
    request: dict[str, Any]
    key: str

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.key,)


@dataclass(frozen=True)
class SampleDone(Done):
    """The file of a sample is in the store."""

    num_sampled: int


@dataclass(frozen=True)
class PreviewTask:
    """Combine `inputs`, which are in order of time, in memory and draw pictures from the result into one file."""

    token: str
    preview_id: str
    inputs: tuple[StoredSnapshot, ...]
    weights: Output
    """The average; its key names nothing."""
    guide: Weights | None
    config: dict[str, Any]
    """The run's configuration as JSON."""
    request: dict[str, Any]
    key: str

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.key,)


@dataclass(frozen=True)
class PreviewDone(Done):
    """The pictures of a preview are in the store. Amounts and times, for estimates of later previews."""

    num_sampled: int
    bytes_read: int
    """From the store; what was kept in memory is not read again."""
    read_seconds: float
    gflops: float
    draw_seconds: float


Task = ReconstructTask | RetainTask | SampleTask | PreviewTask | EvaluationTask
