"""What a claimer asks of an actor and what it answers: plain values, free of torch, that cross process borders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from phema.shared.snapshots.files.header import StoredDtype
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile


@dataclass(frozen=True)
class Output:
    """One file to write, a reconstruction's or a basis's: `coefficients` in the order of the task's `inputs`."""

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
    """All outputs are made in one pass over the inputs, which lie in order of time up to that of the outputs."""

    token: str
    inputs: tuple[StoredSnapshot, ...]
    outputs: tuple[Output, ...]
    continued: ClassVar[bool] = True
    """Whether the next attempt goes on with what one left: only who ends the job for good removes it."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Every object the task may write."""
        return tuple(output.key for output in self.outputs)

    @property
    def bytes_to_read(self) -> int:
        return sum(snapshot.size for snapshot in self.inputs)


@dataclass(frozen=True)
class CompactTask(ReconstructTask):
    """The outputs are the vectors of a basis."""

    basis_id: str = ""


@dataclass(frozen=True)
class RetainTask:
    """Objects of retired snapshots, and the rows that go after them."""

    token: str
    snapshot_ids: tuple[str, ...]
    doomed: tuple[str, ...]
    bytes_to_free: int
    continued: ClassVar[bool] = True

    @property
    def keys(self) -> tuple[str, ...]:
        """It writes nothing."""
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
    leftovers: tuple[str, ...]
    """Objects that earlier attempts of the job may have left behind; no row names them."""
    continued: ClassVar[bool] = False

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
    """The objects written, in the order of the task's keys, and what an evaluation found."""

    written: tuple[Written, ...]
    figures: dict[str, float]
    num_sampled: int
    """Pictures drawn."""
    seconds: float


@dataclass(frozen=True)
class Stopped:
    """The actor did as it was told and left nothing behind."""


@dataclass(frozen=True)
class Failed:
    """One sentence; `retry` when another attempt may fare better."""

    error: str
    retry: bool


Outcome = Done | Stopped | Failed
