"""`preview` jobs, done by a real worker: pictures of averages that are combined in an actor's memory."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from phema.services.phema_worker.previews.input_cache import InputCache
from phema.services.phema_worker.task_progress import Cancelled
from phema.shared.catalog import Job, JobState, Preview, Run
from phema.shared.recipes.evaluation_recipe import EvaluationRecipe
from phema.shared.recipes.sample_request import SampleRequest
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile, TensorProfile
from phema.shared.snapshots.stores.local.store import LocalStore
from phema.shared.submissions import previews, reconstructions
from phema.shared.submissions.job_options import JobOptions
from phema.shared.submissions.reconstructions import ReconstructionRequest
from phema.shared.submissions.stored_inputs import load_stored_inputs
from tests.phema_worker.conftest import only
from tests.phema_worker.lab import Lab, until
from tests.phema_worker.test_samples import ask as ask_sample
from tests.phema_worker.test_samples import done as sampled

OPTIONS = JobOptions(max_attempts=5)
TENSORS = (TensorProfile(pattern="*.emb*", profile=Profile.power(0.05)),)
PER_TENSOR = Profile(kind="per_tensor", default=Profile.power(0.12), tensors=TENSORS)


def ask(lab: Lab, run: Run, profile: Profile, *, num_images: int | None = None, **fields: Any) -> Preview:
    wanted = ReconstructionRequest((profile,), num_images)
    request = SampleRequest.model_validate({"num_steps": 4, "seeds": "0-3", **fields})
    with lab.catalog.transaction(read_only=True) as tx:
        planned = reconstructions.plan(load_stored_inputs(tx, run.id), wanted)
    with lab.catalog.transaction() as tx:
        previews.check(tx, run, request)
        return previews.submit(tx, run.id, planned, wanted, request, OPTIONS)


def job_of(lab: Lab, row: Preview) -> Job:
    with lab.catalog.transaction(read_only=True) as tx:
        return tx.jobs.get(str(row.job_id))


def done(lab: Lab, row: Preview) -> tuple[Preview, bytes]:
    """The finished row and the bytes of its file."""
    lab.wait(job_of(lab, row))
    with lab.catalog.transaction(read_only=True) as tx:
        row = tx.previews.get(row.id)
    assert row.result is not None
    data = lab.store.get(row.result["key"])
    assert len(data) == row.result["size"]
    return row, data


def reconstructed(lab: Lab, run: Run, profile: Profile, num_images: int | None = None) -> str:
    """Id of a finished reconstruction with the plan of a preview of the same profile."""
    wanted = ReconstructionRequest((profile,), num_images)
    with lab.catalog.transaction(read_only=True) as tx:
        planned = reconstructions.plan(load_stored_inputs(tx, run.id), wanted)
    with lab.catalog.transaction() as tx:
        made = reconstructions.submit(tx, run.id, planned, wanted, OPTIONS)
    lab.wait(made.job)
    return made.rows[0].id


def objects(lab: Lab, row: Preview) -> list[str]:
    return [info.key for info in lab.store.list("previews/") if row.id in info.key]


@pytest.fixture(scope="module")
def runs() -> dict[int, Run]:
    """A run with snapshots in each laboratory."""
    return {}


@pytest.fixture
def run(working_lab: Lab, runs: dict[int, Run]) -> Run:
    if id(working_lab) not in runs:
        runs[id(working_lab)] = working_lab.create_run()
        working_lab.add_snapshots(runs[id(working_lab)])
    return runs[id(working_lab)]


def test_pictures_are_those_of_the_reconstruction_bit_for_bit(working_lab: Lab, run: Run) -> None:
    lab = working_lab
    first, data = done(lab, ask(lab, run, Profile.power(0.08)))
    again, other = done(lab, ask(lab, run, Profile.power(0.085)))
    assert data != other
    assert first.result is not None
    assert again.result is not None
    assert again.result["bytes_read"] < first.result["bytes_read"], "what was read before is in the actor's memory"
    assert ask(lab, run, Profile.power(0.08)).state is JobState.SUCCEEDED
    weights = reconstructed(lab, run, Profile.power(0.08))
    assert data == sampled(lab, ask_sample(lab, weights, seeds="0-3"))[1]


@only("local")
def test_patterns_guides_and_classes(working_lab: Lab, run: Run) -> None:
    lab = working_lab
    guide = reconstructed(lab, run, Profile.power(0.2))
    drawn = {"guidance": 2.0, "guide_id": guide, "class_label": 3, "columns": 4}
    _, data = done(lab, ask(lab, run, PER_TENSOR, num_images=1920, **drawn))
    weights = reconstructed(lab, run, PER_TENSOR, 1920)
    assert data == sampled(lab, ask_sample(lab, weights, seeds="0-3", **drawn))[1]


@only("local")
def test_a_preview_does_not_wait_for_other_work(working_lab: Lab, run: Run) -> None:
    lab = working_lab
    pids = lab.worker().actor_pids()
    recipe = EvaluationRecipe(num_samples=4096, num_steps=64, metrics=("frechet",), seed=7_000)
    evaluating, _ = lab.ask_evaluation(lab.weights(), recipe)
    assert evaluating is not None
    part = lab.part_under_way(evaluating)
    _, data = done(lab, ask(lab, run, Profile.power(0.11)))
    assert lab.job(part).state is JobState.RUNNING
    assert lab.worker().actor_pids() == pids, "it ran in the actor that draws the part"
    with lab.catalog.transaction() as tx:
        tx.jobs.request_cancel(evaluating.id)
    until(lambda: lab.job(part).state.terminal, "the end of the part")
    lab.wait(evaluating, JobState.CANCELLED)
    weights = reconstructed(lab, run, Profile.power(0.11))
    assert data == sampled(lab, ask_sample(lab, weights, seeds="0-3"))[1], "other work changes no bit"


@only("local")
def test_a_killed_worker_changes_nothing_and_a_cancel_leaves_nothing(working_lab: Lab, run: Run) -> None:
    lab = working_lab
    row = ask(lab, run, Profile.power(0.09), seeds="0-63", num_steps=200)
    job = job_of(lab, row)
    until(lambda: lab.job(job).state is JobState.RUNNING, "the claim")
    lab.worker().kill()
    lab.worker()
    row, _ = done(lab, row)
    assert lab.outcomes(job) == ["expired", "succeeded"]
    assert row.result is not None
    until(lambda: objects(lab, row) == [row.result and row.result["key"]], "what the killed worker wrote to go")
    os.kill(lab.worker().actor_pids()[-1], signal.SIGKILL)
    # The worker notices the death of an actor when a preview needs it, and starts another.
    after, _ = done(lab, ask(lab, run, Profile.power(0.095)))
    assert lab.outcomes(job_of(lab, after)) == ["failed", "succeeded"]
    long = ask(lab, run, Profile.power(0.09), seeds="0-63", num_steps=1000)
    job = job_of(lab, long)
    until(lambda: lab.job(job).state is JobState.RUNNING, "the claim")
    with lab.catalog.transaction() as tx:
        tx.jobs.request_cancel(job.id)
    lab.wait(job, JobState.CANCELLED)
    until(lambda: lab.unfinished() == [], "what it had written to go")
    assert objects(lab, long) == []


@only("local")
def test_damaged_inputs_give_no_picture(working_lab: Lab) -> None:
    lab = working_lab
    broken = lab.create_run()
    lab.add_snapshots(broken)
    with lab.catalog.transaction(read_only=True) as tx:
        victim = tx.snapshots.list(broken.id)[-1]
    path = lab.store.local_path(victim.key)
    assert path is not None
    intact = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    row = ask(lab, broken, Profile.power(0.08))
    failed = lab.wait(job_of(lab, row), JobState.FAILED)
    assert str(failed.error).startswith(f"damaged-object: object {victim.key}")
    path.write_bytes(intact)
    again = ask(lab, broken, Profile.power(0.08))
    assert again.id == row.id
    done(lab, again)


def test_the_cache_keeps_the_latest_inputs_within_its_bound(tmp_path: Any) -> None:
    store = LocalStore(tmp_path)
    stored = []
    for index in range(4):
        data = bytes([index]) * 100
        store.put(f"s{index}", data)
        stored.append(StoredSnapshot(f"s{index}", index, Profile.power(0.1), f"s{index}", 100, ""))
    cache = InputCache(store, 250)
    assert cache.load(stored[:2], lambda: None) == 200
    assert cache.load(stored[:2], lambda: None) == 0
    for index in range(2):
        store.delete(f"s{index}")
    assert cache.read_range("s1", 10, 5) == bytes([1]) * 5, "from memory"
    assert cache.load([stored[1], stored[2]], lambda: None) == 100, "the oldest makes room"
    assert cache.head("s0") is None
    assert cache.num_bytes == 200
    assert cache.load(stored[1:], lambda: None) == 100, "there is no room for the third"
    assert cache.peek("s3", 3)[1] == bytes([3]) * 3, "from the store"
    assert cache.num_bytes == 200

    def cancelled() -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        InputCache(store, 250).load(stored[2:], cancelled)
