"""Does what trainers and workers would do, in a thread: every queued job is done at once."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from phema.shared.catalog import Evaluation, JobKind, Run, StudyKind
from phema.shared.metrics.figures import FigureValue
from phema.shared.snapshots.stores import object_keys as layout
from tests.phema.service import Service

POLL_SECONDS = 0.02
SEARCHED = {
    "figure": "frechet_digits",
    "point": {"sigma_rel": 0.11},
    "value": 0.39,
    "standard_error": 0.01,
    "num_samples": 1000,
    "seed": 8000,
    "interval": {"sigma_rel": [0.09, 0.12]},
    "at_edge": {},
    "interval_reaches": {},
    "indistinguishable": [],
    "curve": [
        {"point": {"sigma_rel": width}, "value": 0.4 + abs(width - 0.11), "difference": 0.0, "difference_error": 0.01}
        for width in (0.03, 0.11, 0.25)
    ],
    "pictures": 5_000,
    "sentence": "the best is sigma_rel 0.11",
}
Score = Callable[[Evaluation, Run], FigureValue]


@contextmanager
def hands(
    service: Service,
    score: Score,
    *,
    weights: bytes = b"weights",
    pictures: bytes = b"a picture",
    snapshot: bytes | None = None,
) -> Iterator[None]:
    """Within the block, train, reconstruct and evaluate whatever is queued.

    `score` gives `frechet_digits` of an evaluation; `weights` are the file of every reconstruction, `pictures` the grid
    of every evaluation, and `snapshot` the file of every snapshot; None for random bytes.
    """
    stopping = threading.Event()
    worker = _Hands(service, score, weights, pictures, snapshot)
    thread = threading.Thread(target=worker.work, args=(stopping,))
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


class _Hands:
    def __init__(self, service: Service, score: Score, weights: bytes, pictures: bytes, snapshot: bytes | None) -> None:
        self._service, self._score = service, score
        self._weights, self._pictures, self._snapshot = weights, pictures, snapshot

    def work(self, stopping: threading.Event) -> None:
        while not stopping.wait(POLL_SECONDS):
            with self._service.catalog.transaction(read_only=True) as tx:
                waiting = {row[0] for row in tx.queue_stats.read().counts if row[1] == "queued"}
            if JobKind.TRAIN in waiting:
                self._train()
            if JobKind.RECONSTRUCT in waiting:
                self._service.reconstruct(self._weights)
            if JobKind.EVALUATE in waiting:
                self._evaluate()
            if JobKind.SEARCH in waiting:
                self._search()

    def _train(self) -> None:
        """History and snapshots at every `snapshot_every` images of the run's configuration."""
        job = self._service.claim(JobKind.TRAIN)
        with self._service.catalog.transaction() as tx:
            run = tx.runs.get(job.payload["run_id"])
            every = run.config["snapshot_every"]
            for num_images in range(every, run.total_images + 1, every):
                parts = (("activation", "weight"), ("enc", "dec"), ("8", "4"), ("max", "mean"))
                values = {"/".join(names): 1.0 for names in itertools.product(*parts)}
                values |= {"loss": 0.5, "learning_rate": 0.01, "images_per_second": 640.0, "grad_nonfinite": 0.0}
                tx.history.put(run.id, num_images, values)
            tx.runs.set_progress(run.id, run.total_images)
        self._service.snapshot(run, times=range(every, run.total_images + 1, every), data=self._snapshot)
        self._service.finish(job)

    def _search(self) -> None:
        """The answer SEARCHED, whatever the search asks."""
        job = self._service.claim(JobKind.SEARCH)
        with self._service.catalog.transaction() as tx:
            [study] = [row for row in tx.studies.page(StudyKind.SEARCH, limit=1).items if row.job_id == job.id]
            tx.studies.complete(study.id, SEARCHED)
        self._service.finish(job)

    def _evaluate(self) -> None:
        job = self._service.claim(JobKind.EVALUATE)
        key = layout.pictures_key(job.payload["evaluation_id"], "0")
        self._service.store.put(key, self._pictures)
        with self._service.catalog.transaction() as tx:
            row = tx.evaluations.get(job.payload["evaluation_id"])
            scored = self._score(row, tx.runs.get(row.run_id))
            tx.evaluations.complete(
                row.id,
                {"frechet_digits": scored.value, "frechet": 1.0, "held_out_loss": 0.4},
                key,
                errors={"frechet_digits": scored.standard_error or 0.0},
                replicates={"frechet_digits": list(scored.replicates)},
            )
        self._service.finish(job)
