"""The Ray actor: keeps torch loaded, and performs one task at a time, and beside it one preview at a time.

A third thread answers status calls.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from typing import Any

import ray

from phema.services.phema_worker.task_outcomes import Outcome, Stopped
from phema.services.phema_worker.task_progress import TaskProgress
from phema.services.phema_worker.tasks import PreviewTask, Task
from phema.shared.settings import Settings
from phema.shared.telemetry import configure_logs, log_fields, process_log_fields

IDLE = (0.0, "")
"""Status of an actor that does not work on the task."""
_REMEMBERED = 64
"""Cancels that an actor remembers, for tasks that arrive after their cancel."""
log = logging.getLogger(__name__)


class PhemaActor:
    """Runs in its own process. Only this process imports torch; the worker process does not."""

    def __init__(self, settings: Settings) -> None:
        from phema.services.phema_worker.task_runner import TaskRunner

        configure_logs("worker", level=settings.log_level)
        self._runner = TaskRunner(settings)
        self._cancelled: deque[str] = deque(maxlen=_REMEMBERED)
        self._task = self._preview = ("", TaskProgress())
        """Token and progress of the latest task, and of the latest preview."""

    def ready(self) -> tuple[int, str]:
        """(process id, device that tasks run on). The answer comes once the actor has its resources and torch."""
        return os.getpid(), str(self._runner.device)

    def perform(self, task: Task, hold_seconds: float, ids: dict[str, object]) -> Outcome:
        """Perform a task. Returns failures instead of raising them, so an exception means that the process died.

        Args:
            hold_seconds: as for `hold`, counted from the start of the task.
            ids: log fields of the job.
        """
        self._task = task.token, (progress := TaskProgress(hold_seconds))
        with process_log_fields(**ids):
            return self._do(task, progress)

    @ray.method(concurrency_group="preview")  # type: ignore[untyped-decorator]
    def preview(self, task: PreviewTask, hold_seconds: float, ids: dict[str, object]) -> Outcome:
        """As `perform`, for a preview, beside the task that `perform` works on."""
        self._preview = task.token, (progress := TaskProgress(hold_seconds))
        with log_fields(**ids):
            return self._do(task, progress)

    def _do(self, task: Task, progress: TaskProgress) -> Outcome:
        if task.token in self._cancelled:  # the cancel arrived before the task
            return Stopped()
        started = time.perf_counter()
        outcome = self._runner.do(task, progress)
        seconds = round(time.perf_counter() - started, 3)
        log.info("the task is %s", type(outcome).__name__.lower(), extra={"seconds": seconds})
        return outcome

    def _progress_of(self, token: str) -> TaskProgress | None:
        return next((progress for known, progress in (self._task, self._preview) if known == token), None)

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]
    def status(self, token: str) -> tuple[float, str]:
        """(fraction done, message) of the task with that token; IDLE for another token."""
        progress = self._progress_of(token)
        return IDLE if progress is None else (progress.fraction, progress.message)

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]
    def hold(self, token: str, seconds: float) -> None:
        """The attempt with that token surely has its job for `seconds` from now. Deletions may go on until then."""
        if (progress := self._progress_of(token)) is not None:
            progress.hold(seconds)

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]
    def cancel(self, token: str) -> None:
        """Make the task with that token return `Stopped` soon; at once if it has not started."""
        self._cancelled.append(token)
        if (progress := self._progress_of(token)) is not None:
            progress.stop()


def start_actor(settings: Settings) -> Any:
    """Start an actor with the CPUs and GPUs of the settings. Returns its handle at once; `ready` answers when it runs.

    The actor ends with this process. Its slot replaces it when it dies; Ray does not restart it.
    """
    remote = ray.remote(concurrency_groups={"control": 1, "preview": 1})(PhemaActor)
    return remote.options(num_cpus=settings.actor_cpus, num_gpus=settings.actor_gpus, max_restarts=0).remote(settings)
