"""How one step of a study ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from phema.shared.catalog import Transaction


@dataclass(frozen=True)
class Wait:
    """The job is claimed again when at most `allowed_unfinished` of the jobs `needs` are unfinished."""

    needs: tuple[str, ...]
    message: str
    progress: float
    allowed_unfinished: int = 0
    pause_seconds: float = 0.0
    """The job is not claimed earlier than this."""


@dataclass(frozen=True)
class Finished:
    """The study is done. `result` is its answer; `job_result` is added to the job's."""

    result: dict[str, Any]
    job_result: dict[str, Any] = field(default_factory=dict)
    still_holds: Callable[[Transaction], bool] = lambda tx: True
    """Asked in the transaction that ends the study; False if the study has to go on after all."""


@dataclass(frozen=True)
class Impossible:
    """The study cannot be done. `error` is one sentence."""

    error: str


Step = Wait | Finished | Impossible
