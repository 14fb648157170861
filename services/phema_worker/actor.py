"""The Ray actor: stays warm, does one task at a time, and answers for it from a second thread."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

import ray

from phema.services.phema_worker.task_progress import TaskProgress
from phema.services.phema_worker.tasks import Outcome, Stopped, Task
from phema.shared.settings import Settings
from phema.shared.telemetry import configure_logs, process_log_fields

IDLE = (0.0, "")
log = logging.getLogger(__name__)


class PhemaActor:
    """Runs in a process of its own, which alone imports torch."""

    def __init__(self, settings: Settings) -> None:
        from phema.services.phema_worker.task_runner import TaskRunner

        configure_logs("worker", level=settings.log_level)
        self._runner = TaskRunner(settings)
        self._cancelled = ""
        self._current = ("", TaskProgress())

    def ready(self) -> tuple[int, str]:
        """Process id, and device that tasks run on; answering means that the actor has its resources and is warm."""
        return os.getpid(), str(self._runner.device)

    def perform(self, task: Task, hold_seconds: float, ids: dict[str, object]) -> Outcome:
        """Do a task. Failures are returned, not raised: raising is left to the death of the process.

        `hold_seconds`: as for `hold`, from the start. `ids`: the job's, for the log.
        """
        progress = TaskProgress(hold_seconds)
        self._current = (task.token, progress)
        if self._cancelled == task.token:  # the word came before the task
            return Stopped()
        with process_log_fields(**ids):
            started = time.perf_counter()
            outcome = self._runner.do(task, progress)
            seconds = round(time.perf_counter() - started, 3)
            log.info("the task is %s", type(outcome).__name__.lower(), extra={"seconds": seconds})
            return outcome

    def discard(self, keys: tuple[str, ...], ids: dict[str, object]) -> None:
        """Remove objects that no row will ever name. `ids`: those of the job that left them, for the log."""
        with process_log_fields(**ids):
            self._runner.discard(keys)

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]
    def status(self, token: str) -> tuple[float, str]:
        """Fraction done of the task with that token, and what is being done."""
        current, progress = self._current
        return (progress.fraction, progress.message) if current == token else IDLE

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]
    def hold(self, token: str, seconds: float) -> None:
        """The attempt with that token has its job for so long from now: what must not be done by two goes on."""
        current, progress = self._current
        if current == token:
            progress.hold(seconds)

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]
    def cancel(self, token: str) -> None:
        """Make the task with that token return `Stopped` soon, or at once when it has not begun."""
        self._cancelled = token
        current, progress = self._current
        if current == token:
            progress.stop()


def start_actor(settings: Settings) -> Any:
    """A handle to a new actor with the resources the settings name. Returns at once; `ready` answers when it runs.

    The actor belongs to this process and ends with it. Ray does not restart it: its slot does.
    """
    remote = ray.remote(concurrency_groups={"control": 1})(PhemaActor)
    return remote.options(num_cpus=settings.actor_cpus, num_gpus=settings.actor_gpus, max_restarts=0).remote(settings)
