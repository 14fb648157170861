"""Tasks that a slot sends to its actor, and the outcomes that the actor returns. Plain values: no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from phema.shared.snapshots.files.header import StoredDtype
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile


@dataclass(frozen=True)
class Output:
    """One file to write, of a reconstruction or of a basis. `coefficients` are in the order of the task's `inputs`."""

    result_id: str
    """The row that will name it."""
    num_images: int
    key: str
    coefficients: tuple[float, ...]
    dtype: StoredDtype
    profile: Profile
    lineage: dict[str, Any]
    tensors: tuple[tuple[str, tuple[float, ...]], ...] = ()
    """Other coefficients for tensors whose name matches a pattern; the first pattern that matches counts."""


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
class Weights:
    """A finished reconstruction in the store."""

    reconstruction_id: str
    key: str
    sha256: str


@dataclass(frozen=True)
class EvaluateTask:
    token: str
    evaluation_id: str
    weights: Weights
    guide: Weights | None
    recipe: dict[str, Any]
    pictures_key: str

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.pictures_key,)


Task = ReconstructTask | EvaluateTask | RetainTask


@dataclass(frozen=True)
class Written:
    """An object that is complete in the store."""

    key: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Done:
    """The objects written, in the order of the task's keys, and the figures of an evaluation."""

    written: tuple[Written, ...]
    figures: dict[str, float]
    num_sampled: int
    """Pictures drawn."""
    seconds: float


@dataclass(frozen=True)
class Stopped:
    """The actor stopped early, as requested."""


@dataclass(frozen=True)
class Failed:
    """`error` is one sentence; `retry`: whether another attempt may succeed."""

    error: str
    retry: bool


Outcome = Done | Stopped | Failed
