"""What an actor answers when a task has ended. Plain values: no torch."""

from __future__ import annotations

from dataclasses import dataclass

from phema.shared.catalog import FailureCause
from phema.shared.snapshots.errors import CorruptObject
from phema.shared.snapshots.stores.interface import ObjectInfo


class Impossible(ValueError):
    """The snapshots cannot be combined as requested. The message is one sentence."""


@dataclass(frozen=True)
class Written:
    """An object that is complete in the store."""

    key: str
    size: int
    sha256: str

    @classmethod
    def of(cls, info: ObjectInfo) -> Written:
        """Raises CorruptObject if the object was stored without its hash."""
        if info.sha256 is None:
            raise CorruptObject(f"object {info.key} was stored without its hash")
        return cls(info.key, info.size, info.sha256)


@dataclass(frozen=True)
class Done:
    """The objects written, in the order of the task's keys."""

    written: tuple[Written, ...]
    seconds: float


@dataclass(frozen=True)
class Stopped:
    """The actor stopped early, as requested."""


@dataclass(frozen=True)
class Failed:
    """`error` is one sentence; `retry`: whether another attempt may succeed."""

    error: str
    retry: bool
    cause: FailureCause | None = None


Outcome = Done | Stopped | Failed
