"""Runs with the trainer process, Ray Jobs and Ray Train, some of whose processes are killed."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from phema.local_service.ray_head import RayHead
from phema.services.trainer.control.ray_jobs import RayJob, RayJobs
from phema.services.trainer.local_training import train_locally
from phema.services.trainer.training.checkpoint import encode_checkpoint
from phema.shared.catalog import AttemptOutcome, Catalog, JobState, Run, RunState, submission_id
from phema.shared.recipes.run_config import RunConfig
from phema.shared.snapshots import ObjectStore, open_store
from tests.fixtures.catalog import only
from tests.fixtures.ray import LOGICAL_CPUS, POSTGRES_PASSWORD, log_lines, session_logs
from tests.trainer.rays import Trainer, finished, kill, submit
from tests.trainer.support import (
    checkpoint_times,
    get_run,
    loose_attempt,
    new_catalog,
    new_store,
    snapshots_of,
    tiny_config,
    wait_until,
)

pytestmark = pytest.mark.timeout(900)

LONG = {"total_images": 3200, "snapshot_every": 800, "checkpoint_every": 160, "status_every": 160}
"""200 iterations: long enough to be killed in the middle, several times."""


@pytest.fixture
def trainer(ray_cluster: RayHead, tmp_path: Path) -> Iterator[Trainer]:
    """A trainer that is not started yet. Everything it started on the cluster is stopped after the test."""
    trainer = Trainer(ray_cluster, tmp_path)
    yield trainer
    if trainer.process is not None and trainer.process.poll() is None:
        trainer.stop()
    with RayJobs(ray_cluster.env["PHEMA_RAY_DASHBOARD_URL"], token=ray_cluster.env["RAY_AUTH_TOKEN"]) as jobs:
        for submission in trainer.submissions():
            jobs.stop(submission)
    wait_until(lambda: not trainer.workers(), "the end of the workers")


@pytest.fixture
def ray_jobs(ray_cluster: RayHead) -> Iterator[RayJobs]:
    with RayJobs(ray_cluster.env["PHEMA_RAY_DASHBOARD_URL"], token=ray_cluster.env["RAY_AUTH_TOKEN"]) as jobs:
        yield jobs


def reference(config: RunConfig, folder: Path) -> dict[tuple[int, float], str]:
    """The snapshots of a run without interruption, trained without Ray."""
    folder.mkdir()
    catalog, store = new_catalog(folder), new_store(folder)
    run = train_locally(config, catalog, store)
    found = snapshots_of(catalog, store, run.id)
    catalog.close()
    return found


def wait_for_checkpoint(catalog: Catalog, after: int) -> int:
    """The time of a checkpoint later than `after`."""

    def newer() -> int:
        return next((t for t in checkpoint_times(catalog, "run") if t > after), 0)

    time: int = wait_until(newer, f"a checkpoint after {after} images")
    assert time < 3200, "the run ended before it could be disturbed"
    return time


def about(run: Run, logs: list[Path]) -> list[dict[str, Any]]:
    """Log lines with any id of the run."""
    return [line for line in log_lines(*logs) if run.id in line.values() or run.job_id in line.values()]


def attempts(catalog: Catalog) -> list[Any]:
    with catalog.transaction() as tx:
        return tx.jobs.attempts(tx.runs.get("run").job_id)


@pytest.mark.slow  # tests/e2e/test_kills.py kills the same processes of a whole service
def test_kills_of_worker_driver_and_trainer_change_nothing(
    trainer: Trainer, local_catalog: Catalog, local_store: ObjectStore, tmp_path: Path
) -> None:
    """Law 3, all three in one run, whose worker is its driver; the slow tests below take them one by one."""
    config = tiny_config(**LONG)
    run = submit(local_catalog, config)
    trainer.start()
    first = wait_for_checkpoint(local_catalog, 0)
    kill(trainer.workers()[0])
    second = wait_for_checkpoint(local_catalog, first + 480)
    assert [attempt.number for attempt in attempts(local_catalog)] == [1, 2]
    trainer.kill()
    kill(trainer.driver(run.job_id, 2))
    trainer.start()
    wait_for_checkpoint(local_catalog, second)
    done = finished(local_catalog, run.id)
    assert (done.state, done.num_images) == (JobState.SUCCEEDED, 3200), done.job.error
    outcomes = [AttemptOutcome.FAILED, AttemptOutcome.FAILED, AttemptOutcome.SUCCEEDED]
    assert [a.outcome for a in attempts(local_catalog)] == outcomes
    assert snapshots_of(local_catalog, local_store, run.id) == reference(config, tmp_path / "reference")
    with local_catalog.transaction() as tx:
        times = [point.num_images for point in tx.history.list(run.id).items]
    assert times == list(range(160, 3201, 160))


def targets(catalog: Catalog) -> dict[str, str]:
    with catalog.transaction(read_only=True) as tx:
        return {target.kind: target.address for target in tx.scrape_targets.live(60)}


def test_a_restarted_trainer_adopts_a_training_and_a_cancel_stops_it(trainer: Trainer, local_catalog: Catalog) -> None:
    """Its next status is hours away, but it stops in seconds, with a checkpoint, a message and no target left."""
    far = dict.fromkeys(("total_images", "snapshot_every", "checkpoint_every", "status_every"), 16 * 10**6)
    run = submit(local_catalog, tiny_config(**far))
    trainer.start()

    def images() -> float:
        address = targets(local_catalog).get("training")
        text = httpx.get(f"http://{address}/metrics").text if address else ""
        found = re.search(rf'^phema_training_images{{run_id="{run.id}"}} (.+)$', text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    begun = wait_until(images, "progress")
    trainers = httpx.get(f"http://{targets(local_catalog)['trainer']}/metrics").text
    assert "phema_trainings_running 1.0" in trainers
    assert trainer.stop() == 0
    wait_until(lambda: images() > begun + 320, "progress without a trainer")
    trainer.start()
    with local_catalog.transaction() as tx:
        tx.jobs.request_cancel(run.job_id)
    stopped_at = wait_until(lambda: checkpoint_times(local_catalog, "run"), "a checkpoint")
    done = finished(local_catalog, run.id)
    assert (done.state, [done.num_images]) == (JobState.CANCELLED, stopped_at)
    assert done.job.message == f"stopped at {done.num_images} of 16000000 images"
    assert [a.outcome for a in attempts(local_catalog)] == [AttemptOutcome.CANCELLED]
    wait_until(lambda: not trainer.workers(), "the end of the workers")
    assert "training" not in targets(local_catalog)
    assert "ending a training that should stop" not in trainer.log


def test_a_paused_training_frees_its_cpus_and_goes_on_after_it_is_resumed(
    trainer: Trainer, local_catalog: Catalog, local_store: ObjectStore, tmp_path: Path
) -> None:
    """The trainer is killed while the run pauses; the next one starts the attempt after the pause."""
    config = tiny_config(**LONG)
    run = submit(local_catalog, config)
    trainer.start()
    wait_for_checkpoint(local_catalog, 0)
    assert get_run(local_catalog, "run").run_state is RunState.RUNNING
    with local_catalog.transaction() as tx:
        tx.run_control.pause(run.id)
    trainer.kill()
    paused = wait_until(lambda: (now := get_run(local_catalog, "run")).run_state is RunState.PAUSED and now, "paused")
    assert checkpoint_times(local_catalog, "run")[-1] == paused.num_images < config.total_images
    wait_until(lambda: not trainer.workers(), "the end of the workers")
    trainer.start()
    with local_catalog.transaction() as tx:
        tx.run_control.resume(run.id)
    done = finished(local_catalog, run.id)
    assert (done.state, done.job_id, done.num_images) == (JobState.SUCCEEDED, run.job_id, 3200), done.job.error
    assert [a.outcome for a in attempts(local_catalog)] == [AttemptOutcome.PAUSED, AttemptOutcome.SUCCEEDED]
    assert snapshots_of(local_catalog, local_store, run.id) == reference(config, tmp_path / "reference")
    with local_catalog.transaction(read_only=True) as tx:
        kinds = [event.kind.value for event in tx.run_events.list(run.id).items]
    assert kinds == [
        *("created", "starting", "running", "pause_requested", "paused"),
        *("resumed", "starting", "running", "succeeded"),
    ]


@pytest.mark.slow
def test_workers_that_find_no_room_wait_for_it_in_one_attempt(
    trainer: Trainer, local_catalog: Catalog, ray_jobs: RayJobs
) -> None:
    """The cluster is large enough, and another job holds three of its CPUs for a while."""
    trainer.env = {"PHEMA_TRAINING_ROOM_SECONDS": "1.5"}
    taken = f"takes-three-{secrets.token_hex(4)}"
    ray_jobs.submit(taken, "exec sleep 1000", env={}, metadata={}, resources={"CPU": LOGICAL_CPUS - 1})
    wait_until(lambda: (job := ray_jobs.get(taken)) is not None and not job.pending, "the other job")
    config = tiny_config(num_workers=2)
    with local_catalog.transaction() as tx:
        run = tx.runs.create("run", config.model_dump(mode="json"), config.config_hash, config.total_images, 1)
    trainer.start()

    def says() -> bool:
        return str(get_run(local_catalog, run.id).job.message).startswith(
            "waiting for resources: num_workers 2 finds no room on the cluster: "
            "each worker takes 1 CPU of one node, and 1 of 4 CPUs are free; "
        )

    try:
        wait_until(says, "the message")
    finally:
        ray_jobs.stop(taken)
    done = finished(local_catalog, run.id)
    assert done.state is JobState.SUCCEEDED, done.job.error
    assert [attempt.number for attempt in attempts(local_catalog)] == [1]


@only("postgres")
def test_two_workers_on_s3_and_postgres(
    catalog_url: str, catalog: Catalog, s3_options: tuple[str, Any], trainer: Trainer
) -> None:
    """On real servers, whose secrets the cluster knows, and neither the job's metadata nor any log does.

    Every line of all four processes says what it is about.
    """
    url, options = s3_options
    trainer.env = {
        "PHEMA_DATABASE_URL": catalog_url.replace(f":{POSTGRES_PASSWORD}@", "@"),
        "PGPASSWORD": POSTGRES_PASSWORD,
        "PHEMA_STORE_URL": url,
        "PHEMA_S3_ENDPOINT_URL": options.endpoint_url,
        "PHEMA_S3_ACCESS_KEY_ID": options.access_key_id,
        "PHEMA_S3_SECRET_ACCESS_KEY": options.secret_access_key,
        "PHEMA_LOG_LEVEL": "debug",
    }
    store = open_store(url, s3=options)
    run = submit(catalog, tiny_config(num_workers=2, max_batch_per_worker=4), request_id="asked-by/a:user")
    trainer.start()
    done = finished(catalog, run.id)
    assert done.state is JobState.SUCCEEDED, done.job.error
    found = snapshots_of(catalog, store, run.id)
    assert sorted(found) == [(t, s) for t in (80, 160, 240, 320) for s in (0.05, 0.10)]
    assert {info.key.split("/")[0] for info in store.list() if info.key} - {"logs"} == {"runs"}, (
        "Ray Train's files are deleted"
    )
    logs = [trainer.folder / "trainer.log", *session_logs(trainer.head)]
    wait_until(
        lambda: "the attempt ended" in {x["message"].partition(",")[0] for x in about(run, logs)}, "the last line"
    )
    found = about(run, logs)
    ids = {"run_id": run.id, "job_id": run.job_id, "attempt": 1, "request_id": "asked-by/a:user"}
    assert all(line.items() >= ids.items() for line in found)
    assert {(line["service"], line.get("rank")) for line in found} == {
        ("trainer", None),
        ("training", None),
        ("training", 0),
        ("training", 1),
    }
    written = "".join(log.read_text(errors="replace") for log in logs)
    assert POSTGRES_PASSWORD not in written
    assert trainer.head.env["RAY_AUTH_TOKEN"] not in written


@pytest.mark.slow
def test_killed_workers_change_nothing(
    trainer: Trainer, local_catalog: Catalog, local_store: ObjectStore, tmp_path: Path
) -> None:
    """Three kills, more than one group of workers. Ray Train restarts them within the attempt."""
    config = tiny_config(num_workers=2, **LONG)
    run = submit(local_catalog, config)
    trainer.start()
    time = 0
    for victim in (0, -1, 0):
        time = wait_for_checkpoint(local_catalog, time)
        kill(trainer.workers()[victim])
        time = checkpoint_times(local_catalog, "run")[-1]
    assert finished(local_catalog, run.id).state is JobState.SUCCEEDED
    assert [attempt.number for attempt in attempts(local_catalog)] == [1]
    disturbed = snapshots_of(local_catalog, local_store, run.id)
    again = submit(local_catalog, config, name="undisturbed")
    assert finished(local_catalog, again.id).state is JobState.SUCCEEDED
    assert disturbed == snapshots_of(local_catalog, local_store, again.id)


@pytest.mark.slow
def test_killed_drivers_change_nothing(
    trainer: Trainer, local_catalog: Catalog, local_store: ObjectStore, tmp_path: Path
) -> None:
    config = tiny_config(**LONG)
    run = submit(local_catalog, config)
    trainer.start()
    time = 0
    for fence in (1, 2):
        time = wait_for_checkpoint(local_catalog, time)
        kill(trainer.driver(run.job_id, fence))
        time = checkpoint_times(local_catalog, "run")[-1]
    assert finished(local_catalog, run.id).state is JobState.SUCCEEDED
    assert [attempt.number for attempt in attempts(local_catalog)] == [1, 2, 3]
    assert snapshots_of(local_catalog, local_store, run.id) == reference(config, tmp_path / "reference")


@pytest.mark.slow
def test_a_killed_trainer_changes_nothing(
    trainer: Trainer, local_catalog: Catalog, local_store: ObjectStore, tmp_path: Path
) -> None:
    config = tiny_config(**LONG)
    run = submit(local_catalog, config)
    trainer.start()
    wait_until(lambda: "submitted" in trainer.log, "the submission")
    trainer.kill()
    trainer.start()
    wait_for_checkpoint(local_catalog, 0)
    trainer.kill()
    trainer.start()
    assert finished(local_catalog, run.id).state is JobState.SUCCEEDED
    assert [attempt.number for attempt in attempts(local_catalog)] == [1]
    assert snapshots_of(local_catalog, local_store, run.id) == reference(config, tmp_path / "reference")


@pytest.mark.slow
def test_a_driver_that_lost_its_lease_ends_and_the_next_takes_over(
    trainer: Trainer, local_catalog: Catalog, local_store: ObjectStore, tmp_path: Path
) -> None:
    """A healthy driver loses its job, as with an expired lease: it ends by itself and writes nothing."""
    config = tiny_config(**LONG)
    run = submit(local_catalog, config)
    trainer.start()
    wait_for_checkpoint(local_catalog, 0)
    driver = trainer.driver(run.job_id, 1)
    with local_catalog.transaction() as tx:
        tx.leases.release(run.job_id, 1)
    driver.wait(timeout=60)
    assert finished(local_catalog, run.id).state is JobState.SUCCEEDED
    assert [attempt.number for attempt in attempts(local_catalog)] == [1, 2]
    with RayJobs(trainer.head.env["PHEMA_RAY_DASHBOARD_URL"]) as jobs:
        old = jobs.get(submission_id(run.job_id, 1))
    assert old is not None
    assert old.status in ("FAILED", "STOPPED")
    assert snapshots_of(local_catalog, local_store, run.id) == reference(config, tmp_path / "reference")


@pytest.mark.slow
def test_a_worker_that_fails_says_why(trainer: Trainer, local_catalog: Catalog, local_store: ObjectStore) -> None:
    """The checkpoint belongs to another run. Restarting the workers would not help, so the run fails at once."""
    run = submit(local_catalog, tiny_config(num_workers=2))
    info = local_store.put("runs/other.pt", encode_checkpoint({}, loose_attempt("run-other")))
    assert info.sha256 is not None
    with local_catalog.transaction() as tx:
        tx.checkpoints.add(run_id=run.id, num_images=160, key=info.key, size=info.size, sha256=info.sha256)
    trainer.start()
    done = finished(local_catalog, run.id)
    assert done.state is JobState.FAILED
    assert done.job.error == f"the checkpoint's run_id is 'run-other', not '{run.id}'"
    assert [attempt.outcome for attempt in attempts(local_catalog)] == [AttemptOutcome.FAILED]
    wait_until(lambda: not trainer.workers(), "the end of the workers")
    with RayJobs(trainer.head.env["PHEMA_RAY_DASHBOARD_URL"], token=trainer.head.env["RAY_AUTH_TOKEN"]) as jobs:

        def ended() -> RayJob | None:
            job = jobs.get(submission_id(run.job_id, 1))
            return job if job is not None and job.ended else None

        assert wait_until(ended, "the end of the driver").status == "SUCCEEDED", "it has nothing left to write"
    assert list(trainer.folder.glob("ray-train-*")) == []


def test_workers_of_a_driver_that_ray_stops_store_a_checkpoint_first(
    trainer: Trainer, ray_jobs: RayJobs, local_catalog: Catalog
) -> None:
    """Ray sends SIGTERM to the driver alone, which tells its two workers through the catalog."""
    config = tiny_config(**LONG, num_workers=2)
    run = submit(local_catalog, config)
    trainer.start()
    wait_for_checkpoint(local_catalog, 0)
    ray_jobs.stop(submission_id(run.job_id, 1))
    wait_until(lambda: attempts(local_catalog)[0].ended_at, "the end of the first attempt")
    assert attempts(local_catalog)[0].outcome is AttemptOutcome.RELEASED
    done = finished(local_catalog, run.id)
    assert (done.state, done.num_images) == (JobState.SUCCEEDED, 3200), done.job.error
    lines = [str(line["message"]) for line in log_lines(*session_logs(trainer.head))]
    assert any("handing the run back: the run stops after this step" in line for line in lines)
