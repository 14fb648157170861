"""One step of a sweep: record what has ended, and keep a window of points under way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from phema.services.phema_worker.coordination.points import (
    NewPoint,
    is_settled,
    job_under_way,
    record_failures,
    submit_points,
)
from phema.services.phema_worker.coordination.steps import Finished, Impossible, Step, Wait
from phema.services.phema_worker.coordination.study_work import StudyWork
from phema.services.phema_worker.coordination.weights import Weights, request_weights
from phema.shared.catalog import StudyPoint
from phema.shared.studies.outcome import figure_of, study_outcome
from phema.shared.studies.point import WeightsSpec
from phema.shared.studies.sweep_points import SweepPoints
from phema.shared.studies.sweep_spec import StoredSweep

_BATCH = 8
"""Points that one transaction adds: each takes some milliseconds, in which other writers wait on SQLite."""


def advance(work: StudyWork) -> Step:
    """Raises LeaseLost, CatalogUnreachable."""
    return _Sweep(work).advance()


class _Sweep:
    def __init__(self, work: StudyWork) -> None:
        self._work = work
        self._points = SweepPoints(StoredSweep.model_validate(work.study.spec), work.study.run_id)
        progress = work.study.progress or {}
        self._settled: int = progress.get("settled", 0)
        """All points with smaller numbers are settled, and are not read again."""
        self._chunk: dict[str, Any] | None = progress.get("chunk")
        """The weights of the chunk that was requested last."""
        self._guides: list[Weights] | None = (
            [Weights(**one) for one in progress["guides"]] if "guides" in progress else None
        )

    def advance(self) -> Step:
        while True:
            record_failures(self._work, self._unsettled())
            points = self._unsettled()
            self._leave_behind(points)
            jobs = [job for point in points if (job := job_under_way(point)) is not None]
            room = self._work.window - len(jobs)
            missing = self._missing(points, room)
            if not missing or self._work.stopped():
                return self._wait(points, jobs) if jobs or missing else self._finish()
            self._submit(missing)

    def _unsettled(self) -> list[StudyPoint]:
        with self._work.read() as tx:
            return tx.studies.points(self._work.study.id, after=self._settled - 1)

    def _leave_behind(self, points: Sequence[StudyPoint]) -> None:
        before = self._settled
        for point in points:
            if not is_settled(point) or point.number != self._settled:
                break
            self._settled += 1
        if self._settled > before:
            self._save()

    def _missing(self, points: Sequence[StudyPoint], room: int) -> list[int]:
        """Numbers of the next points without an evaluation."""
        reset = [point.number for point in points if point.evaluation_id is None and point.error is None]
        first_new = points[-1].number + 1 if points else self._settled
        return [*reset, *range(first_new, len(self._points))][: max(room, 0)][:_BATCH]

    def _submit(self, numbers: Sequence[int]) -> None:
        submit_points(self._work, [self._new_point(number) for number in numbers])

    def _new_point(self, number: int) -> NewPoint:
        chunk, place = self._points.chunk_of(number)
        guide = self._points.guide_index(number)
        return NewPoint(
            number,
            self._points[number],
            self._weights_of(chunk)[place],
            None if guide is None else self._guide_weights()[guide],
        )

    def _weights_of(self, chunk: int) -> list[Weights]:
        if self._chunk is None or self._chunk["index"] != chunk:
            made = request_weights(self._work, self._points.chunk(chunk))
            self._chunk = {"index": chunk, "weights": [one.document() for one in made]}
            self._save()
        return [Weights(**one) for one in self._chunk["weights"]]

    def _guide_weights(self) -> list[Weights]:
        if self._guides is None:
            by_time: dict[int, list[WeightsSpec]] = {}
            for guide in self._points.guides:
                by_time.setdefault(guide.num_images, []).append(guide)
            self._guides = [one for guides in by_time.values() for one in request_weights(self._work, guides)]
            self._save()
        return self._guides

    def _save(self) -> None:
        progress: dict[str, Any] = {"settled": self._settled}
        if self._chunk is not None:
            progress["chunk"] = self._chunk
        if self._guides is not None:
            progress["guides"] = [one.document() for one in self._guides]
        with self._work.write() as tx:
            tx.studies.set_progress(self._work.study.id, progress)

    def _wait(self, points: Sequence[StudyPoint], jobs: Sequence[str]) -> Wait:
        done, total = (
            self._settled + sum(p.number >= self._settled and is_settled(p) for p in points),
            len(self._points),
        )
        return Wait(
            tuple(jobs),
            f"{done:,} of {total:,} points",
            done / total,
            # Claimed again when an eighth of the window is free, at least one point: long before it runs dry.
            allowed_unfinished=max(len(jobs) - max(1, self._work.window // 8), 0),
        )

    def _finish(self) -> Step:
        with self._work.read() as tx:
            points = tx.studies.points(self._work.study.id)
            figure = figure_of(points)
            ids = [point.evaluation_id for point in points if point.evaluation_id]
            replicates = {} if figure is None else tx.evaluations.replicates(ids, figure.name)
        outcome = study_outcome(points, replicates)
        if outcome.ranking is None:
            first = next((point.error for point in points if point.error is not None), "it has no ranked figure")
            return Impossible(f"all {len(points)} points failed; the first: {first}")
        return Finished(outcome.document(), {"points": len(points), "failed": outcome.failed})
