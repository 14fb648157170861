"""A real API process for the client to talk to, and the hands of trainers and workers that its jobs wait for."""

from __future__ import annotations

import hashlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from phema.shared.catalog import Catalog, Job, JobKind, Run
from phema.shared.settings import Settings
from phema.shared.snapshots import ObjectStore
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores import object_keys as layout
from phema.shared.wiring import catalog_from, store_from

TIMES = tuple(range(3200, 25_601, 3200))
TRACKED = (0.05, 0.10)


@dataclass
class Service:
    """The API at `url` and what it stands on."""

    url: str
    settings: Settings
    catalog: Catalog
    store: ObjectStore
    process: subprocess.Popen[str]

    def claim(self, kind: JobKind) -> Job:
        with self.catalog.transaction() as tx:
            job = tx.leases.claim([kind], owner="test", lease_seconds=600)
            assert job is not None
            if kind is JobKind.TRAIN:
                tx.leases.begin_work(job.id, job.fence)
        return job

    def heartbeat(self, job: Job, progress: float, message: str = "") -> None:
        with self.catalog.transaction() as tx:
            tx.leases.heartbeat(job.id, job.fence, lease_seconds=600, progress=progress, message=message)

    def finish(self, job: Job) -> None:
        with self.catalog.transaction() as tx:
            tx.leases.succeed(job.id, job.fence, {})

    def fail(self, job: Job, error: str) -> None:
        with self.catalog.transaction() as tx:
            tx.leases.fail(job.id, job.fence, error, retry=False)

    def progress(self, run_id: str, num_images: int, loss: float = 0.5) -> None:
        with self.catalog.transaction() as tx:
            tx.history.put(run_id, num_images, {"loss": loss, "learning_rate": 0.01, "images_per_second": 640.0})
            tx.runs.set_progress(run_id, num_images)

    def snapshot(self, run: Run, times: Sequence[int] = TIMES, data: bytes | None = None) -> None:
        """Rows and objects of both tracked EMAs at `times`."""
        for num_images in times:
            for sigma_rel in TRACKED:
                content = data or secrets.token_bytes(64)
                sha256 = hashlib.sha256(content).hexdigest()
                key = layout.snapshot_key(run.id, num_images=num_images, label=f"{sigma_rel:g}", sha256=sha256)
                size = self.store.put(key, content).size
                with self.catalog.transaction() as tx:
                    tx.snapshots.add(
                        run_id=run.id,
                        num_images=num_images,
                        profile=Profile.power(sigma_rel).model_dump(mode="json"),
                        dtype="float32",
                        key=key,
                        size=size,
                        sha256=sha256,
                    )

    def reconstruct(self, data: bytes = b"weights") -> None:
        """Do the oldest queued reconstruction: every output holds `data`."""
        job = self.claim(JobKind.RECONSTRUCT)
        for identity in job.payload["reconstruction_ids"]:
            key = layout.reconstruction_key(job.payload["run_id"], identity, secrets.token_hex(4))
            info = self.store.put(key, data)
            with self.catalog.transaction() as tx:
                tx.reconstructions.complete(identity, key, info.size, hashlib.sha256(data).hexdigest())
        self.finish(job)

    def evaluate(self, frechet: float, pictures: bytes = b"a picture") -> None:
        """Do the oldest queued evaluation."""
        job = self.claim(JobKind.EVALUATE)
        key = layout.pictures_key(job.payload["evaluation_id"], secrets.token_hex(4))
        self.store.put(key, pictures)
        with self.catalog.transaction() as tx:
            tx.evaluations.complete(job.payload["evaluation_id"], {"frechet": frechet, "held_out_loss": 0.4}, key)
        self.finish(job)

    def draw(self, data: bytes = b"pictures") -> None:
        """Do the oldest queued sample."""
        job = self.claim(JobKind.SAMPLE)
        identity = job.payload["sample_id"]
        info = self.store.put(layout.sample_key(identity, secrets.token_hex(4), "png"), data)
        with self.catalog.transaction() as tx:
            sha256 = hashlib.sha256(data).hexdigest()
            tx.samples.complete(identity, {"key": info.key, "size": info.size, "sha256": sha256})
        self.finish(job)

    def preview(self, data: bytes = b"pictures") -> None:
        """Do the oldest queued preview."""
        job = self.claim(JobKind.PREVIEW)
        identity = job.payload["preview_id"]
        info = self.store.put(layout.preview_key(identity, secrets.token_hex(4)), data)
        stored = {"key": info.key, "size": info.size, "sha256": hashlib.sha256(data).hexdigest()}
        measured = {"bytes_read": 100, "read_seconds": 0.1, "gflops": 1.0, "draw_seconds": 0.5}
        with self.catalog.transaction() as tx:
            tx.previews.complete(identity, stored | measured)
        self.finish(job)

    def clear_queue(self) -> None:
        """No test leaves work to the next."""
        with self.catalog.transaction() as tx:
            for state in ("queued", "running", "paused"):
                for job in tx.jobs.list(state=state, limit=500).items:
                    if tx.jobs.request_cancel(job.id).state == "running":
                        tx.leases.cancelled(job.id, job.fence)


@contextmanager
def api(settings: Settings, **env: str) -> Iterator[Service]:
    """A process of `phema.services.api` on these settings; ends with the block."""
    catalog = catalog_from(settings)
    catalog.upgrade()
    with process(settings, **env) as (url, child):
        yield Service(url, settings, catalog, store_from(settings), child)
    catalog.close()


@contextmanager
def process(settings: Settings, port: int = 0, **env: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    variables = {"PHEMA_STATE_DIR": str(settings.state_dir), "PHEMA_API_PORT": str(port), **env}
    child = subprocess.Popen(
        [sys.executable, "-m", "phema.services.api"],
        env={**os.environ, **variables},
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    try:
        line = child.stdout.readline()
        assert "listening on" in line, line
        yield line.split()[-1], child
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
