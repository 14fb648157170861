"""A small run with real snapshots, requests for it, and real worker processes."""

from __future__ import annotations

import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from phema.local_service.processes import spawn
from phema.shared.catalog import Catalog, Evaluation, Job, JobKind, JobState, Reconstruction, Run, content_key
from phema.shared.edm2.averaging.ema import PowerFunctionEMA
from phema.shared.edm2.networks.building import build_denoiser
from phema.shared.recipes.evaluation_recipe import EvaluationRecipe
from phema.shared.recipes.presets import resolve
from phema.shared.recipes.run_config import RunConfig
from phema.shared.snapshots.files.snapshot_file import SnapshotMetadata, encode
from phema.shared.snapshots.files.weight_probe import probe_of
from phema.shared.snapshots.planning.planner import plan
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.interface import ObjectStore
from phema.shared.snapshots.stores.local.store import LocalStore
from phema.shared.snapshots.stores.object_keys import snapshot_key

PATIENCE_SECONDS = 120.0
NETWORK = {"model_channels": 16, "channels_per_head": 16}
STORED = (0.05, 0.10)
TIMES = (640, 1280, 1920, 2560)


def tiny_config(**overrides: Any) -> RunConfig:
    """A network small enough to sample in a test."""
    fields = {"network": NETWORK, "total_images": 2560, "snapshot_every": 640, "checkpoint_every": 2560}
    return resolve("digits-tiny", {**fields, "status_every": 640, **overrides})


def until(answer: Callable[[], Any], what: str) -> Any:
    """Poll until the condition gives a true value, and return the value."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if value := answer():
            return value
        time.sleep(0.05)
    raise AssertionError(f"waited {PATIENCE_SECONDS:g} s for {what}")


@dataclass
class WorkerProcess:
    """`python -m phema.services.phema_worker`, as `phema up` starts it."""

    process: subprocess.Popen[bytes]
    log: Path

    def lines(self, pattern: str) -> list[re.Match[str]]:
        return list(re.finditer(pattern, self.log.read_text()))

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def address(self) -> str:
        """Where its metrics are served."""
        (started,) = self.lines(r'"address": "([^"]+)"')
        return started[1]

    def ready(self) -> WorkerProcess:
        until(self.actor_pids, "a warm actor")
        return self

    def actor_pids(self) -> list[int]:
        """Process ids of the actors it started, in order."""
        assert self.alive, self.log.read_text()
        return [int(match[1]) for match in self.lines(r"process id (\d+) is ready")]

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@dataclass
class Lab:
    """Catalog, store and workers that tests share. Each test has its own runs."""

    folder: Path
    catalog: Catalog
    store: ObjectStore
    env: dict[str, str]
    workers: list[WorkerProcess] = field(default_factory=list)
    _weighted: Run | None = None

    def worker(self) -> WorkerProcess:
        """The only worker, warm: one that earlier tests left alive, else a new one."""
        (worker,) = self.warm_workers(1)
        return worker

    def warm_workers(self, count: int) -> list[WorkerProcess]:
        """Exactly `count` warm workers."""
        for superfluous in self._alive()[count:]:
            superfluous.stop()
        while len(self._alive()) < count:
            self.start_worker()
        return [worker.ready() for worker in self._alive()]

    def holder(self, job: Job) -> WorkerProcess:
        """The worker that has the job's lease."""
        owner = str(self.job(job).lease_owner)
        (found,) = [worker for worker in self.workers if f"-{worker.process.pid}-" in owner]
        return found

    def close(self) -> None:
        """End the workers that are alive. They must exit with code 0."""
        alive = self._alive()
        for worker in alive:
            worker.process.terminate()
        assert [worker.process.wait(60) for worker in alive] == [0] * len(alive)

    def _alive(self) -> list[WorkerProcess]:
        return [worker for worker in self.workers if worker.alive]

    def start_worker(self, **settings: object) -> WorkerProcess:
        extra = {f"PHEMA_{name.upper()}": str(value) for name, value in settings.items()}
        log = self.folder / f"worker-{len(self.workers)}.log"
        process = spawn([sys.executable, "-m", "phema.services.phema_worker"], log=log, env={**self.env, **extra})
        self.workers.append(WorkerProcess(process, log))
        return self.workers[-1]

    def create_run(self, config: RunConfig | None = None) -> Run:
        config, name = config or tiny_config(), f"run-{secrets.token_hex(4)}"
        with self.catalog.transaction() as tx:
            return tx.runs.create(name, config.model_dump(mode="json"), config.config_hash, config.total_images)

    def add_snapshots(self, run: Run, *, times: Sequence[int] = TIMES) -> list[dict[str, torch.Tensor]]:
        """Store averages of a network with random updates, as a trainer does. Returns their tensors, row by row."""
        config = RunConfig.model_validate(run.config)
        torch.manual_seed(7)
        network = build_denoiser(config.network)
        ema = PowerFunctionEMA(network, STORED)
        tensors = []
        for seen in range(64, max(times) + 1, 64):
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter.add_(torch.randn_like(parameter), alpha=0.05)
            ema.update(seen, 64)
            if seen in times:
                for i, sigma_rel in enumerate(STORED):
                    state = {name: value.clone() for name, value in ema.tensors(i).items()}
                    self.add_snapshot(run, seen, sigma_rel, state)
                    tensors.append(state)
        return tensors

    def add_snapshot(self, run: Run, num_images: int, wanted: float | Profile, state: dict[str, torch.Tensor]) -> str:
        """`wanted`: a profile, or the sigma_rel of one."""
        network = build_denoiser(RunConfig.model_validate(run.config).network)
        profile = wanted if isinstance(wanted, Profile) else Profile.power(wanted)
        metadata = SnapshotMetadata(
            run_id=run.id,
            num_images=num_images,
            profile=profile,
            dtype="float32",
            buffers=tuple(name for name, _ in network.named_buffers()),
            code_version="test",
            config_hash=run.config_hash,
            config=run.config,
        )
        data = encode(state, metadata)
        digest = sha256(data).hexdigest()
        key = snapshot_key(run.id, num_images=num_images, label=profile.label, sha256=digest)
        info = self.store.put(key, data)
        with self.catalog.transaction() as tx:
            row, _ = tx.snapshots.add(
                run_id=run.id,
                num_images=num_images,
                profile=profile.model_dump(mode="json"),
                dtype="float32",
                key=key,
                size=info.size,
                sha256=digest,
                probe=probe_of(data),
            )
        return row.id

    def ask_reconstructions(
        self,
        run: Run,
        sigma_rels: Sequence[float],
        *,
        dtype: str = "float32",
        repeat: int = 1,
        finished: int = 0,
        request_id: str | None = None,
    ) -> tuple[Job | None, list[str]]:
        """(the job, None when every result exists; the rows' ids).

        `repeat` reads every snapshot so many times over, with a share of its coefficient: slow without large files.
        The first `finished` rows are completed, as by another job, before a worker can claim this one.
        """
        with self.catalog.transaction(request_id=request_id) as tx:
            stored = [
                StoredSnapshot(s.id, s.num_images, Profile.model_validate(s.profile), s.key, s.size, s.sha256)
                for s in tx.snapshots.list(run.id)
            ]
            planned = plan(stored, [Profile.power(value) for value in sigma_rels])
            rows, lacking = [], []
            for output in planned.outputs:
                entries = [
                    {**vars(s), "id": f"{s.id}-{i}", "profile": s.profile.model_dump(mode="json")}
                    for s in planned.snapshots
                    for i in range(repeat)
                ]
                question: dict[str, Any] = {
                    "run_id": run.id,
                    "num_images": planned.num_images,
                    "profile": output.profile.model_dump(mode="json"),
                    "dtype": dtype,
                }
                errors = [output.errors.predicted_error]
                known = tx.reconstructions.find_equivalent(**question, regularize=True, predicted_errors=errors)
                if known is not None:
                    rows.append(known)
                    continue
                row, needs_job = tx.reconstructions.find_or_create(
                    **question,
                    plan={
                        "snapshots": entries,
                        "coefficients": [c / repeat for c in output.coefficients for _ in range(repeat)],
                        **vars(output.errors),
                    },
                )
                rows.append(row)
                lacking += [row] if needs_job else []
            job = None
            if lacking:
                ids = [row.id for row in lacking]
                job, _ = tx.jobs.enqueue(
                    JobKind.RECONSTRUCT,
                    payload={"run_id": run.id, "num_images": planned.num_images, "reconstruction_ids": ids},
                    content_key=content_key("reconstruct", sorted(row.content_key for row in lacking)),
                    run_id=run.id,
                )
                tx.reconstructions.assign(ids, job.id)
            for row in rows[:finished]:
                tx.reconstructions.complete(row.id, f"runs/elsewhere-{row.id}", 1, "0" * 64)
            return job, [row.id for row in rows]

    def weights(self, sigma_rel: float = 0.08) -> str:
        """A finished reconstruction, shared by all tests that only need some weights."""
        if self._weighted is None:
            self._weighted = self.create_run()
            self.add_snapshots(self._weighted)
        job, (reconstruction_id,) = self.ask_reconstructions(self._weighted, [sigma_rel])
        if job is not None:
            self.wait(job)
        return reconstruction_id

    def ask_evaluation(self, reconstruction_id: str, recipe: EvaluationRecipe) -> tuple[Job | None, str]:
        with self.catalog.transaction() as tx:
            run_id = tx.reconstructions.get(reconstruction_id).run_id
            row, needs_job = tx.evaluations.find_or_create(
                run_id=run_id, reconstruction_id=reconstruction_id, recipe=recipe.model_dump(mode="json")
            )
            job = None
            if needs_job:
                job, _ = tx.jobs.enqueue(
                    JobKind.EVALUATE,
                    payload={"evaluation_id": row.id},
                    content_key=content_key("evaluate", row.content_key),
                    run_id=run_id,
                )
                tx.evaluations.assign([row.id], job.id)
            return job, row.id

    def job(self, job: Job) -> Job:
        with self.catalog.transaction(read_only=True) as tx:
            return tx.jobs.get(job.id)

    def wait(self, job: Job | None, state: JobState = JobState.SUCCEEDED) -> Job:
        assert job is not None
        until(lambda: self.job(job).state.terminal or self._deserted(), f"the end of {job.kind} {job.id}")
        found = self.job(job)
        assert found.state is state, f"{found.state}: {found.error}"
        return found

    def _deserted(self) -> bool:
        """Fail at once, with the last worker's log, when no worker is alive."""
        assert self._alive(), self.workers[-1].log.read_text()
        return False

    def wait_until_under_way(self, job: Job) -> None:
        """Wait until the actor has reported progress on the job."""
        until(lambda: self.job(job).progress > 0, f"progress of {job.kind} {job.id}")

    def parts(self, job: Job) -> list[Job]:
        """The jobs that an evaluation enqueued, oldest first."""
        with self.catalog.transaction(read_only=True) as tx:
            found = tx.jobs.list(kind=JobKind.DRAW, limit=1000).items
        return [part for part in reversed(found) if part.parent_id == job.id]

    def part_under_way(self, job: Job) -> Job:
        """A part of an evaluation on which an actor has reported progress."""

        def found() -> Job | None:
            return next((part for part in self.parts(job) if part.state is JobState.RUNNING and part.progress), None)

        part: Job = until(found, f"progress of a part of {job.id}")
        return part

    def reconstruction(self, reconstruction_id: str) -> Reconstruction:
        with self.catalog.transaction(read_only=True) as tx:
            return tx.reconstructions.get(reconstruction_id)

    def evaluation(self, evaluation_id: str) -> Evaluation:
        with self.catalog.transaction(read_only=True) as tx:
            return tx.evaluations.get(evaluation_id)

    def outcomes(self, job: Job) -> list[str]:
        """How each attempt ended."""
        with self.catalog.transaction(read_only=True) as tx:
            return [str(attempt.outcome) for attempt in tx.jobs.attempts(job.id)]

    def unfinished(self) -> list[Path]:
        """Unfinished files in a local store."""
        assert isinstance(self.store, LocalStore)
        return [*self.store.folder.partial.glob("*"), *self.store.folder.unfinished.glob("*")]

    def results(self, owner: str) -> list[str]:
        """Keys of all objects that workers have written for a run or an evaluation."""
        written = [o.key for o in self.store.list() if "/reconstructions/" in o.key or o.key.startswith("evaluations/")]
        return [key for key in written if owner in key]
