"""Performs tasks inside the actor: reads objects, writes objects, returns figures. Never opens the catalog."""

from __future__ import annotations

import logging
import threading
import time

import torch

from phema.services.phema_worker.evaluation.actor_context import ActorContext, DatasetChanged
from phema.services.phema_worker.evaluation.draw import ExtractorChanged, draw_part
from phema.services.phema_worker.evaluation.prepare import prepare
from phema.services.phema_worker.evaluation.score import score_parts
from phema.services.phema_worker.evaluation.tasks import DrawTask, EvaluationTask, PrepareTask
from phema.services.phema_worker.previews.draw_preview import PreviewDrawer
from phema.services.phema_worker.retain import delete_objects
from phema.services.phema_worker.sampling.draw_sample import store_sample
from phema.services.phema_worker.task_outcomes import Done, Failed, Impossible, Outcome, Stopped, Written
from phema.services.phema_worker.task_progress import Cancelled, TaskProgress
from phema.services.phema_worker.tasks import (
    PreviewTask,
    ReconstructTask,
    RetainTask,
    SampleDone,
    SampleTask,
    Task,
)
from phema.shared.catalog import FailureCause
from phema.shared.datasets import DatasetError, HubUnreachable
from phema.shared.drawing.drawing import NotFinite
from phema.shared.edm2.device import prepare_device
from phema.shared.edm2.sampling.heun import SamplerError
from phema.shared.metrics.errors import ScoringError
from phema.shared.recipes.run_config import RunConfig
from phema.shared.recipes.sample_request import SampleRequest, UnknownClass
from phema.shared.settings import Settings
from phema.shared.snapshots.combining.reconstruct import ReconstructionCancelled, reconstruct
from phema.shared.snapshots.combining.wanted_output import output_specs
from phema.shared.snapshots.errors import CorruptObject, ObjectMissing, SnapshotError
from phema.shared.wiring import remote_from, store_from

log = logging.getLogger(__name__)


_FINAL = (Impossible, NotFinite, UnknownClass, SamplerError, ScoringError, DatasetError)
"""Errors that every attempt would meet again: the request is wrong. So are damaged and missing objects."""
_SWEEP_SECONDS = 86_400.0
"""Time between two searches for unfinished objects."""
DAMAGED = "damaged-object"
"""Begins the error of a job that met a damaged or missing object, like the API's type of problem."""


class TaskRunner:
    """Keeps torch, its threads and the connection to the store between tasks.

    Two threads may call `do`: one with previews, the other with all other tasks.
    """

    def __init__(self, settings: Settings) -> None:
        torch.set_num_threads(max(1, int(settings.actor_cpus)))
        self.device = torch.device("cuda" if settings.actor_gpus and torch.cuda.is_available() else "cpu")
        prepare_device(self.device)
        self._store = store_from(settings)
        self._remote = remote_from(settings)
        self._evaluating = ActorContext(self._store, self.device, self._remote, settings.extractor_weights)
        self._previews = PreviewDrawer(
            self._store,
            self.device,
            self._remote,
            cache_bytes=settings.preview_cache_bytes,
            memory_bytes=settings.reconstruct_memory_bytes,
        )
        self._memory_bytes = settings.reconstruct_memory_bytes
        self._swept_at: float | None = None
        self.sweeper: threading.Thread | None = None

    def _start_sweep(self) -> None:
        """Once a day, remove in the background what killed processes left unfinished in the store."""
        now = time.monotonic()
        if self._swept_at is None or now - self._swept_at > _SWEEP_SECONDS:
            self._swept_at = now
            self.sweeper = threading.Thread(target=self._sweep, name="store-sweep", daemon=True)
            self.sweeper.start()

    def _sweep(self) -> None:
        try:
            if removed := self._store.sweep():
                log.info("removed %d abandoned unfinished objects", removed)
        except SnapshotError as error:
            log.warning("unfinished objects were not looked for: %s", error)

    def do(self, task: Task, progress: TaskProgress) -> Outcome:
        """Perform a task. Failures are returned with one sentence.

        Without success, objects may be left behind: the next attempt continues them, and the catalog lists them for
        deletion.
        """
        start = time.perf_counter()
        if not isinstance(task, PreviewTask):  # a user waits in front of these
            self._start_sweep()
        try:
            if isinstance(task, RetainTask):
                delete_objects(self._store, task, progress)
                return Done((), time.perf_counter() - start)
            if isinstance(task, ReconstructTask):
                return Done(self._reconstruct(task, progress), time.perf_counter() - start)
            if isinstance(task, SampleTask):
                return self._sample(task, progress)
            if isinstance(task, PreviewTask):
                return self._previews.draw(task, progress)
            return self._of_evaluation(task, progress)
        except (Cancelled, ReconstructionCancelled):
            outcome: Outcome = Stopped()
        except (CorruptObject, ObjectMissing) as error:
            outcome = Failed(f"{DAMAGED}: {error}", retry=False, cause=FailureCause.DATA)
        except _FINAL as error:
            outcome = Failed(str(error), retry=False, cause=FailureCause.CONFIGURATION)
        except (SnapshotError, HubUnreachable, ExtractorChanged, DatasetChanged) as error:
            away = FailureCause.STORE_AWAY if isinstance(error, SnapshotError) else FailureCause.DATA
            outcome = Failed(str(error), retry=True, cause=away)
        except Exception as error:
            # A bug in phema or a fault of the machine: `max_attempts` bounds how often the task is repeated.
            log.exception("the task failed")
            memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
            cause = FailureCause.OUT_OF_MEMORY if memory else FailureCause.CODE
            outcome = Failed(f"unexpected {type(error).__name__}: {error}", retry=True, cause=cause)
        return outcome

    def _of_evaluation(self, task: EvaluationTask, progress: TaskProgress) -> Outcome:
        if isinstance(task, PrepareTask):
            return prepare(self._evaluating, task, progress)
        if isinstance(task, DrawTask):
            return draw_part(self._evaluating, task, progress)
        return score_parts(self._evaluating, task, progress)

    def _reconstruct(self, task: ReconstructTask, progress: TaskProgress) -> tuple[Written, ...]:
        progress.message = f"reading {len(task.inputs)} snapshots"
        outputs = output_specs(self._store, task.inputs[-1], task.outputs)
        try:
            written = reconstruct(
                self._store,
                task.inputs,
                outputs,
                memory_bytes=self._memory_bytes,
                progress=progress.at,
                cancelled=lambda: progress.stopped,
                resume=True,
            )
        except ValueError as error:
            raise Impossible(str(error)) from error
        return tuple(map(Written.of, written))

    def _sample(self, task: SampleTask, progress: TaskProgress) -> SampleDone:
        start = time.perf_counter()
        progress.message = "reading weights"
        denoiser = self._evaluating.networks.get(task.weights)
        progress.check()
        guide = self._evaluating.networks.get(task.guide) if task.guide is not None else None
        request, config = SampleRequest.model_validate(task.request), RunConfig.model_validate(task.config)
        info = store_sample(self._store, task.key, request, denoiser, guide, config, progress, self._remote)
        return SampleDone((Written.of(info),), time.perf_counter() - start, len(request.seeds))
