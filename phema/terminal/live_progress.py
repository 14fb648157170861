"""Live progress of runs, jobs and downloads. Ctrl-C stops watching, not the work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from phema.client.average_models import Reconstruction
from phema.client.client import Client
from phema.client.response_models import Evaluation, Job, Metrics, Run
from phema.errors import JobFailed
from phema.terminal.formats import size, with_error
from phema.terminal.progress_bar import Bar
from phema.terminal.screen import Screen


class Detached(Exception):
    """The user pressed Ctrl-C while watching. The message says what continues and how to watch it again."""


@contextmanager
def detachable(sentence: str) -> Iterator[None]:
    """Turn Ctrl-C inside the block into Detached with `sentence`."""
    try:
        yield
    except KeyboardInterrupt:
        raise Detached(sentence) from None


def follow_run(client: Client, screen: Screen, run: str) -> Run:
    """Show a run's images, images/s, loss and ETA until it ends. Raises JobFailed unless it succeeds."""
    view = _RunView(client, screen, run)
    way_back = f"detached; {run} goes on training, watch it again with: phema runs watch {run}"
    with detachable(way_back), screen.bar(f"training {run}") as bar:
        ended = client.runs.watch(run, lambda state: view.show(bar, state))
    if ended.state != "succeeded":
        raise _failure(ended)
    return ended


def follow_job(client: Client, screen: Screen, job: str, title: str, way_back: str) -> Job:
    """Show a job's progress until it ends. Raises JobFailed unless it succeeds."""
    sentence = f"detached; {job} goes on, {way_back}"
    with detachable(sentence), screen.bar(title) as bar:
        return client.wait(job, on_progress=lambda state: show_job(bar, state))


def follow_reconstructions(service: Client, screen: Screen, items: list[Reconstruction]) -> list[Reconstruction]:
    """Show progress until every reconstruction has finished; returns them, in order."""
    jobs = dict.fromkeys(item.job_id for item in items if not item.done and item.job_id)
    for job in jobs:
        count = sum(item.job_id == job for item in items)
        title = f"reconstructing {count} profiles" if count > 1 else "reconstructing"
        follow_job(service, screen, job, title, "the same command picks it up again")
    return [service.reconstruction(item.id) for item in items]


def follow_evaluations(
    client: Client, screen: Screen, evaluations: Sequence[Evaluation], title: str, way_back: str
) -> list[Evaluation]:
    """Show the progress of several evaluations in one bar; returns them finished, in order."""
    jobs = [evaluation.job_id for evaluation in evaluations if not evaluation.done and evaluation.job_id]
    with detachable(f"detached; the evaluations go on, {way_back}"), screen.bar(title) as bar:
        view = _JobsView(client, bar, jobs, len(evaluations))
        for job in jobs:
            client.wait(job, on_progress=view.show)
    return [client.evaluation(evaluation.id) for evaluation in evaluations]


def download(client: Client, screen: Screen, identity: str, path: Path) -> Path:
    """Download one file and show progress. Returns the file."""
    way_back = "download stopped; the same command resumes it"
    with detachable(way_back), screen.bar(f"downloading {path.name or identity}") as bar:
        return client.download(
            identity, path, on_progress=lambda done, total: bar.update(done, total, f"{size(done)} of {size(total)}")
        )


def show_job(bar: Bar, job: Job) -> None:
    """Show one state of a job."""
    if job.state == "queued" and not (job.message and job.attempts == 0):  # one that waits for other jobs has a message
        bar.update(0, None, f"queued after {job.attempts} attempts" if job.attempts else "queued")
    else:
        bar.update(1.0 if job.done else job.progress, 1.0, job.message or job.state)


class _JobsView:
    """One bar for several jobs that run at once but are polled one after the other."""

    def __init__(self, client: Client, bar: Bar, jobs: Sequence[str], total: int) -> None:
        self._client = client
        self._bar = bar
        self._waiting = set(jobs)
        self._total = total
        self._shown = 0.0

    def show(self, job: Job) -> None:
        if job.done:
            self._waiting.discard(job.id)
        # Evaluations wait in the queue while their parts are drawn.
        under_way = [
            other
            for state in ("running", "queued")
            for other in self._client.jobs.list(job.kind, state, job.run_id)
            if other.id in self._waiting
        ]
        finished = self._total - len(self._waiting)
        done = finished + sum(other.progress for other in {other.id: other for other in under_way}.values())
        # A job that ended before it was polled is in neither list until then; the bar must not go back meanwhile.
        self._shown = max(self._shown, done)
        self._bar.update(self._shown, self._total, f"{int(self._shown)} of {self._total}")


class _RunView:
    """Shows the states of a run in a bar. Reads only the new part of the history."""

    def __init__(self, client: Client, screen: Screen, run: str) -> None:
        self._client = client
        self._screen = screen
        self._run = run
        self._told: str | None = None
        """The last failure that was shown."""
        self._latest: Metrics | None = None
        self._score = ""

    def show(self, bar: Bar, run: Run) -> None:
        if run.error != self._told and not run.done:
            self._told = run.error
            if run.error:
                cause = f" ({run.cause})" if run.cause else ""
                self._screen.note(f"an attempt failed{cause}, and the run is tried again: {run.error}")
        if run.state == "queued":
            bar.update(0, None, "queued")
            return
        if run.state == "starting" or (run.num_images == 0 and run.state == "running"):
            bar.update(0, None, "starting the workers")
            return
        if run.state == "paused":
            bar.update(run.num_images, run.total_images, f"paused; resume it with: phema runs resume {run.name}")
            return
        bar.update(run.num_images, run.total_images, self._detail(run))

    def _detail(self, run: Run) -> str:
        parts = [f"{run.num_images:,} of {run.total_images:,} images"]
        if self._latest is None or self._latest.num_images != run.num_images:
            after = None if self._latest is None else self._latest.num_images
            new = self._client.runs.metrics(self._run, after=after)
            self._latest = new[-1] if new else self._latest
            self._score = self._best_figure() if run.config.get("evaluation") else ""
        if self._latest is not None:
            values = self._latest.values
            if "images_per_second" in values:
                parts.append(f"{values['images_per_second']:,.0f} images/s")
            if "loss" in values:
                parts.append(f"loss {values['loss']:.3f}")
        return " · ".join([*parts, self._score] if self._score else parts)

    def _best_figure(self) -> str:
        """The latest result of the continuous evaluation."""
        points = self._client.runs.progress_curve(self._run).points
        if not points:
            return ""
        last = points[-1]
        shown = with_error(last.value, last.standard_error)
        return f"{last.figure} {shown} at sigma_rel {last.sigma_rel:.3g} after {last.num_images:,} images"


def _failure(run: Run) -> JobFailed:
    reason = run.error or (run.job.error if run.job else None)
    sentence = f"run {run.name} {run.state} at {run.num_images:,} of {run.total_images:,} images"
    return JobFailed(f"{sentence}: {reason}" if reason else sentence, run.job.id if run.job else run.id, run.state)
