"""Performs tasks inside the actor: reads objects, writes objects, returns figures. Never opens the catalog."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from importlib.metadata import version

import torch
from pydantic import ValidationError

from phema.services.phema_worker.evaluate import NotFinite, Scores, evaluate
from phema.services.phema_worker.retain import delete_objects
from phema.services.phema_worker.task_progress import Cancelled, TaskProgress
from phema.services.phema_worker.tasks import (
    Done,
    EvaluateTask,
    Failed,
    Outcome,
    Output,
    ReconstructTask,
    RetainTask,
    Stopped,
    Task,
    Weights,
    Written,
)
from phema.shared.datasets import DatasetError, HubUnreachable
from phema.shared.edm2.device import prepare_device
from phema.shared.edm2.sampling.heun import SamplerError
from phema.shared.metrics.moments import FrechetError
from phema.shared.recipes.evaluation_recipe import EvaluationRecipe
from phema.shared.recipes.run_config import RunConfig
from phema.shared.settings import Settings
from phema.shared.snapshots.combining.reconstruct import OutputSpec, ReconstructionCancelled, reconstruct
from phema.shared.snapshots.errors import CorruptObject, ObjectMissing, SnapshotError
from phema.shared.snapshots.files.header import is_average
from phema.shared.snapshots.files.network_loading import LoadedModel, load_model
from phema.shared.snapshots.files.snapshot_file import SnapshotMetadata, read_header
from phema.shared.snapshots.stores.interface import ObjectInfo
from phema.shared.snapshots.stores.verification import check_recorded
from phema.shared.wiring import remote_from, store_from

log = logging.getLogger(__name__)


class Impossible(ValueError):
    """The snapshots cannot be combined as requested. The message is one sentence."""


_FINAL = (Impossible, NotFinite, SamplerError, FrechetError, DatasetError)
"""Errors that every attempt would meet again: the request is wrong. So are damaged and missing objects."""
_SWEEP_SECONDS = 86_400.0
"""Time between two searches for unfinished objects."""
DAMAGED = "damaged-object"
"""Begins the error of a job that met a damaged or missing object, like the API's type of problem."""


class TaskRunner:
    """Keeps torch, its threads and the connection to the store between tasks."""

    def __init__(self, settings: Settings) -> None:
        torch.set_num_threads(max(1, int(settings.actor_cpus)))
        self.device = torch.device("cuda" if settings.actor_gpus and torch.cuda.is_available() else "cpu")
        prepare_device(self.device)
        self._store = store_from(settings)
        self._remote = remote_from(settings)
        self._memory_bytes = settings.reconstruct_memory_bytes
        self._swept_at: float | None = None
        self.sweeper = threading.Thread(target=self._sweep, name="store-sweep", daemon=True)

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
        self._start_sweep()
        try:
            if isinstance(task, RetainTask):
                delete_objects(self._store, task, progress)
                return Done((), {}, 0, time.perf_counter() - start)
            if isinstance(task, ReconstructTask):
                return Done(self._reconstruct(task, progress), {}, 0, time.perf_counter() - start)
            scores = self._evaluate(task, progress)
            written = _written(self._store.put(task.pictures_key, scores.png))
            return Done((written,), scores.figures, scores.num_sampled, time.perf_counter() - start)
        except (Cancelled, ReconstructionCancelled):
            outcome: Outcome = Stopped()
        except (CorruptObject, ObjectMissing) as error:
            outcome = Failed(f"{DAMAGED}: {error}", retry=False)
        except _FINAL as error:
            outcome = Failed(str(error), retry=False)
        except (SnapshotError, HubUnreachable) as error:
            outcome = Failed(str(error), retry=True)
        except Exception as error:
            # A bug in phema or a fault of the machine: `max_attempts` bounds how often the task is repeated.
            log.exception("the task failed")
            outcome = Failed(f"unexpected {type(error).__name__}: {error}", retry=True)
        return outcome

    def _reconstruct(self, task: ReconstructTask, progress: TaskProgress) -> tuple[Written, ...]:
        progress.message = f"reading {len(task.inputs)} snapshots"
        latest = task.inputs[-1]
        header = read_header(self._store, latest.key, size=latest.size)
        source = header.metadata
        if source is None:
            raise CorruptObject(f"object {latest.key} is a safetensors file without phema's metadata")
        names = [e.name for e in header.tensors if is_average(e.name, e.dtype, source.buffers)]
        outputs = [
            OutputSpec(o.key, o.coefficients, _metadata(source, o), o.dtype, _of_tensors(o, names))
            for o in task.outputs
        ]
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
        return tuple(map(_written, written))

    def _evaluate(self, task: EvaluateTask, progress: TaskProgress) -> Scores:
        progress.message = "reading weights"
        model = self._load(task.weights)
        progress.check()
        guide = self._load(task.guide).denoiser if task.guide is not None else None
        recipe = EvaluationRecipe.model_validate(task.recipe)
        scores = evaluate(model.denoiser, guide, _config(model, task.weights.key), recipe, progress, self._remote)
        progress.check()
        return scores

    def _load(self, weights: Weights) -> LoadedModel:
        data = self._store.get(weights.key)
        check_recorded(self._store, weights.key, hashlib.sha256(data).hexdigest(), weights.sha256)
        model = load_model(data)
        model.denoiser.to(self.device)
        if self.device.type == "cuda":  # CPUs compute in float32, GPUs in the precision of the run
            model.denoiser.precision = _config(model, weights.key).precision
        return model


def _config(model: LoadedModel, key: str) -> RunConfig:
    try:
        return RunConfig.model_validate(model.metadata.config)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(map(str, problem["loc"]))
        raise CorruptObject(f"object {key} holds no valid configuration: {field}: {problem['msg']}") from error


def _of_tensors(output: Output, names: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """By tensor name: the coefficients of tensors that match a pattern of the output."""
    found = {}
    for name in names:
        own = (coefficients for pattern, coefficients in output.tensors if fnmatchcase(name, pattern))
        if (chosen := next(own, None)) is not None:
            found[name] = chosen
    return found


def _metadata(source: SnapshotMetadata, output: Output) -> SnapshotMetadata:
    """Metadata of an output file: that of the run, taken from a snapshot, and the output's own lineage."""
    fields = source.model_dump() | {
        "kind": "basis" if output.profile.kind == "basis" else "reconstruction",
        "num_images": output.num_images,
        "profile": output.profile,
        "dtype": output.dtype,
        "code_version": version("phema"),
        "lineage": output.lineage,
    }
    return SnapshotMetadata.model_validate(fields)


def _written(info: ObjectInfo) -> Written:
    if info.sha256 is None:
        raise CorruptObject(f"object {info.key} was stored without its hash")
    return Written(info.key, info.size, info.sha256)
