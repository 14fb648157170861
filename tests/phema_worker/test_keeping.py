"""The worker's code, without Ray, writes bases and deletes snapshots. After a crash, another process continues."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phema.administration.rebuild import rebuild
from phema.services.api.bases.schemas import BasisCreate
from phema.services.api.bases.service import create, plan
from phema.services.phema_worker.job_tasks import begin_task, complete_job, list_unnamed, task_of
from phema.services.phema_worker.task_outcomes import Done, Stopped
from phema.services.phema_worker.task_progress import TaskProgress
from phema.services.phema_worker.task_runner import TaskRunner
from phema.services.phema_worker.tasks import CompactTask, RetainTask
from phema.shared.catalog import Basis, Catalog, Job, JobKind, JobState, LeaseLost, Run, content_key
from phema.shared.service_runtime.object_deletion import delete_listed
from phema.shared.settings import Settings
from phema.shared.snapshots.files.header import parse_header
from phema.shared.snapshots.files.snapshot_file import load_tensors
from phema.shared.snapshots.planning.planner import plan as plan_reconstruction
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.object_keys import run_key
from phema.shared.snapshots.stores.opening import open_store
from phema.shared.snapshots.stores.options import S3Options
from phema.shared.snapshots.stores.verification import verify
from phema.shared.submissions.stored_inputs import load_stored_inputs
from tests.phema_worker import mortal
from tests.phema_worker.lab import STORED, TIMES, Lab

SURVIVORS = slice(1, None, mortal.EVERY_OTHER)


@pytest.fixture
def fresh(tmp_path: Path, sqlite_template: Path) -> Callable[[str], Catalog]:
    """Opens empty catalogs by name, copies of one that was migrated."""
    return lambda name: Catalog(f"sqlite:///{shutil.copy(sqlite_template, tmp_path / name)}")


def laboratory(folder: Path, catalog: Catalog, store_url: str, options: S3Options | None = None) -> Lab:
    catalog_url = catalog.location
    env = {"PHEMA_STATE_DIR": str(folder), "PHEMA_DATABASE_URL": catalog_url, "PHEMA_STORE_URL": store_url}
    if options is not None:
        env |= {
            "PHEMA_S3_ENDPOINT_URL": str(options.endpoint_url),
            "PHEMA_S3_ACCESS_KEY_ID": str(options.access_key_id),
            "PHEMA_S3_SECRET_ACCESS_KEY": str(options.secret_access_key),
        }
    return Lab(folder, catalog, open_store(store_url, s3=options), env)


@pytest.fixture
def lab(tmp_path: Path, fresh: Callable[[str], Catalog]) -> Iterator[Lab]:
    """SQLite and a folder, without workers."""
    made = laboratory(tmp_path, fresh("catalog.db"), (tmp_path / "store").as_uri())
    yield made
    made.catalog.close()


@pytest.fixture
def s3_lab(tmp_path: Path, fresh: Callable[[str], Catalog], s3_options: tuple[str, S3Options]) -> Iterator[Lab]:
    made = laboratory(tmp_path, fresh("catalog.db"), *s3_options)
    yield made
    made.catalog.close()


@pytest.fixture
def bench(lab: Lab) -> TaskRunner:
    return TaskRunner(Settings(state_dir=lab.folder, store_url=lab.env["PHEMA_STORE_URL"]))


def described(lab: Lab) -> tuple[Run, list[dict[str, torch.Tensor]]]:
    """A run with snapshots that a rebuild understands, and their tensors."""
    run = lab.create_run()
    states = lab.add_snapshots(run)
    document = {"id": run.id, "name": run.name, "config": run.config}
    lab.store.put(run_key(run.id), json.dumps(document).encode())
    return run, states


def claim(lab: Lab, kind: JobKind) -> Job:
    with lab.catalog.transaction() as tx:
        tx.leases.expire([kind])
        job = tx.leases.claim([kind], owner="test", lease_seconds=60.0)
    assert job is not None
    return job


def work(lab: Lab, bench: TaskRunner, kind: JobKind) -> Job:
    """One attempt at the oldest job of that kind."""
    job = claim(lab, kind)
    with lab.catalog.transaction() as tx:
        task = begin_task(tx, job)
    assert task is not None
    done = bench.do(task, TaskProgress())
    assert isinstance(done, Done), done
    with lab.catalog.transaction() as tx:
        return complete_job(tx, job, task, done)


def ask_basis(lab: Lab, run: Run, **wanted: Any) -> str:
    with lab.catalog.transaction(read_only=True) as tx:
        stored = load_stored_inputs(tx, run.id)
    planned = plan(stored, BasisCreate(**wanted))
    with lab.catalog.transaction() as tx:
        return str(create(tx, run.id, planned, max_attempts=5).answer.model_dump()["basis"]["id"])


def basis(lab: Lab, basis_id: str) -> Basis:
    with lab.catalog.transaction(read_only=True) as tx:
        return tx.bases.get(basis_id)


def test_vectors_are_the_planned_sums_and_say_so(lab: Lab, bench: TaskRunner) -> None:
    run, states = described(lab)
    basis_id = ask_basis(lab, run)
    job = work(lab, bench, JobKind.COMPACT)
    row = basis(lab, basis_id)
    assert (job.state, row.state) == (JobState.SUCCEEDED, JobState.SUCCEEDED)
    assert row.vectors is not None
    assert job.result is not None
    assert job.result["vectors"] == len(row.vectors) == len(row.plan["vectors"])
    columns = {name: np.stack([s[name].numpy().astype(np.float64) for s in states]) for name in states[0]}
    for index, (vector, coefficients) in enumerate(zip(row.vectors, row.plan["vectors"], strict=True)):
        verify(lab.store, vector["key"], size=vector["size"], sha256=vector["sha256"])
        data = lab.store.get(vector["key"])
        metadata = parse_header(data, len(data), "vector").metadata
        assert metadata is not None
        assert (metadata.kind, metadata.profile, metadata.num_images) == (
            "basis",
            Profile(kind="basis", index=index),
            2560,
        )
        assert (metadata.run_id, metadata.dtype, metadata.config) == (run.id, "float32", run.config)
        lineage = metadata.lineage
        assert lineage is not None
        assert lineage["vectors"] == row.plan["vectors"]
        assert [s["sha256"] for s in lineage["snapshots"]] == [s["sha256"] for s in row.plan["snapshots"]]
        assert [lineage[f] for f in ("sigma_rel_min", "sigma_rel_max", "tolerance")] == [0.02, 0.25, 1e-4]
        for name, found in load_tensors(data).items():
            wanted = columns[name][-1] if "fourier" in name else np.tensordot(coefficients, columns[name], axes=1)
            scale = float(np.abs(columns[name]).max() * np.abs(coefficients).sum())
            np.testing.assert_allclose(found.numpy(), wanted, rtol=0, atol=3e-7 * scale, err_msg=name)


def test_a_profile_from_the_basis_is_that_from_all_snapshots(lab: Lab, bench: TaskRunner) -> None:
    run, states = described(lab)
    ask_basis(lab, run)
    work(lab, bench, JobKind.COMPACT)
    with lab.catalog.transaction(read_only=True) as tx:
        stored = load_stored_inputs(tx, run.id)
    (finished,) = stored.bases
    vectors = [load_tensors(lab.store.get(vector.key)) for vector in finished.vectors]
    for sigma_rel in (0.03, 0.08, 0.13, 0.2):
        wanted = [Profile.power(sigma_rel)]
        whole = plan_reconstruction(stored.snapshots, wanted, probes=stored.probes, update_images=64)
        planned = plan_reconstruction((), wanted, num_images=TIMES[-1], bases=[finished])
        assert planned.basis_id == finished.id
        off = size = 0.0
        columns = {s.id: state for s, state in zip(stored.snapshots, states, strict=True)}
        for name in (n for n in vectors[0] if "fourier" not in n):
            exact = sum(
                c * columns[s.id][name].double()
                for s, c in zip(whole.snapshots, whole.outputs[0].coefficients, strict=True)
            )
            made = sum(c * v[name].double() for v, c in zip(vectors, planned.outputs[0].coefficients, strict=True))
            off += float((made - exact).square().sum())
            size += float(exact.square().sum())
        # Leaving unread what raises the error by 2 % may move the result by a fifth of that error.
        allowed = finished.plan.tolerance + 0.2 * planned.outputs[0].errors.predicted_error
        assert (off / size) ** 0.5 < allowed


def test_a_basis_outlives_its_snapshots_and_the_catalog(
    lab: Lab, bench: TaskRunner, fresh: Callable[[str], Catalog]
) -> None:
    run, _ = described(lab)
    basis_id = ask_basis(lab, run)
    work(lab, bench, JobKind.COMPACT)
    row = basis(lab, basis_id)
    assert row.vectors is not None
    with lab.catalog.transaction() as tx:
        early = [s for s in tx.snapshots.list(run.id) if s.num_images < TIMES[-1]]
    for snapshot in early:
        lab.store.delete(snapshot.key)
    empty = fresh("rebuilt.db")
    found = rebuild(empty, lab.store)
    assert (found.runs, found.snapshots, found.bases, found.skipped) == (1, len(STORED), 1, {})
    again = rebuild(empty, lab.store)
    assert (again.bases, again.skipped) == (0, {})
    with empty.transaction() as tx:
        (restored,) = tx.bases.finished(run.id)
        assert restored.vectors == row.vectors
        assert restored.plan["vectors"] == row.plan["vectors"]
        assert restored.content_key == row.content_key, "the same question finds it"
        made = load_stored_inputs(tx, run.id)
    wanted = [Profile.power(0.13)]
    assert (
        plan_reconstruction((), wanted, num_images=TIMES[-1], bases=made.bases).outputs[0].errors.predicted_error < 1e-2
    )
    lab.store.delete(row.vectors[0]["key"])
    other = fresh("other.db")
    found = rebuild(other, lab.store)
    assert found.bases == 0
    assert set(found.skipped) == {vector["key"] for vector in row.vectors[1:]}
    assert "and vector 0 is not in the store" in next(iter(found.skipped.values()))
    empty.close()
    other.close()


def test_a_second_attempt_writes_the_same_vectors(lab: Lab, bench: TaskRunner) -> None:
    run, _ = described(lab)
    basis_id = ask_basis(lab, run)
    job = claim(lab, JobKind.COMPACT)
    with lab.catalog.transaction(read_only=True) as tx:
        task = task_of(tx, job)
    assert isinstance(task, CompactTask)
    done = bench.do(task, TaskProgress())
    assert isinstance(done, Done)
    with lab.catalog.transaction() as tx:  # it dies before it writes the end down
        tx.leases.release(job.id, job.fence)
    work(lab, bench, JobKind.COMPACT)
    row = basis(lab, basis_id)
    assert [vector["key"] for vector in row.vectors or ()] == [written.key for written in done.written]
    assert lab.unfinished() == []
    with lab.catalog.transaction() as tx:
        assert tx.bases.get(basis_id).state is JobState.SUCCEEDED
        assert task_of(tx, job) is None


def test_a_killed_compaction_is_taken_up_and_leaves_nothing(lab: Lab, bench: TaskRunner) -> None:
    run, _ = described(lab)
    lost, made = ask_basis(lab, run), ask_basis(lab, run, tolerance=1e-5)
    kill(lab, "compact")
    assert lab.unfinished() != [], "it was at work"
    assert basis(lab, lost).vectors is None
    assert work(lab, bench, JobKind.COMPACT).result is not None
    assert work(lab, bench, JobKind.COMPACT).result is not None
    assert lab.unfinished() == []
    vectors = [vector for one in (lost, made) for vector in basis(lab, one).vectors or ()]
    for vector in vectors:
        verify(lab.store, vector["key"], size=vector["size"], sha256=vector["sha256"])
    assert sorted(o.key for o in lab.store.list(f"runs/{run.id}/bases/")) == sorted(v["key"] for v in vectors)


def bases_in(lab: Lab, run: Run) -> list[str]:
    return [info.key for info in lab.store.list(f"runs/{run.id}/bases/")]


def listed(lab: Lab) -> set[str]:
    with lab.catalog.transaction(read_only=True) as tx:
        return tx.deletions.keys()


def test_a_compaction_that_is_killed_and_then_cancelled_leaves_nothing(lab: Lab) -> None:
    run, _ = described(lab)
    ask_basis(lab, run)
    kill(lab, "compact")
    assert lab.unfinished() != [], "it was at work"
    assert set(bases_in(lab, run)) <= listed(lab)
    with lab.catalog.transaction() as tx:
        (job,) = tx.leases.expire([JobKind.COMPACT])
    assert delete_listed(lab.catalog, lab.store) == 0, "the next attempt continues them"
    with lab.catalog.transaction() as tx:
        tx.jobs.request_cancel(job.id)
    assert delete_listed(lab.catalog, lab.store) > 0
    assert lab.unfinished() == []
    assert bases_in(lab, run) == []
    assert listed(lab) == set()


def test_what_a_late_attempt_writes_after_its_job_has_failed_is_deleted(lab: Lab, bench: TaskRunner) -> None:
    run, _ = described(lab)
    ask_basis(lab, run)
    job = claim(lab, JobKind.COMPACT)
    with lab.catalog.transaction() as tx:
        task = begin_task(tx, job)
        tx.leases.fail(job.id, job.fence, "Another process ended it.", retry=False)
    assert task is not None
    delete_listed(lab.catalog, lab.store)
    done = bench.do(task, TaskProgress())
    assert isinstance(done, Done)
    with pytest.raises(LeaseLost), lab.catalog.transaction() as tx:
        complete_job(tx, job, task, done)
    assert bases_in(lab, run) != []
    with lab.catalog.transaction() as tx:
        list_unnamed(tx, job, task)
    delete_listed(lab.catalog, lab.store)
    assert bases_in(lab, run) == []


def test_a_late_attempt_takes_nothing_from_the_one_that_succeeded(lab: Lab, bench: TaskRunner) -> None:
    run, _ = described(lab)
    basis_id = ask_basis(lab, run)
    late = claim(lab, JobKind.COMPACT)
    with lab.catalog.transaction() as tx:
        task = begin_task(tx, late)
        tx.leases.release(late.id, late.fence)
    assert task is not None
    work(lab, bench, JobKind.COMPACT)
    assert listed(lab) == set()
    with lab.catalog.transaction() as tx:
        list_unnamed(tx, late, task)
    assert delete_listed(lab.catalog, lab.store) == 0
    vectors = basis(lab, basis_id).vectors
    assert vectors is not None
    assert bases_in(lab, run) == sorted(vector["key"] for vector in vectors)


def test_a_cancelled_deletion_stops_between_two_objects(lab: Lab, bench: TaskRunner) -> None:
    run, _ = described(lab)
    mortal.give_up(lab.catalog, run.id, lambda here: None)
    job = claim(lab, JobKind.RETAIN)
    with lab.catalog.transaction(read_only=True) as tx:
        task = task_of(tx, job)
    assert isinstance(task, RetainTask)
    watch = TaskProgress()
    watch.stop()
    assert bench.do(task, watch) == Stopped()
    assert sum(lab.store.head(key) is None for key in task.doomed) == 1
    assert task.keys == (), "what ends without success has written nothing to clear away"
    late = TaskProgress(hold_seconds=0)
    assert bench.do(task, late) == Stopped(), "another attempt may have the job"
    assert sum(lab.store.head(key) is None for key in task.doomed) == 1
    late.hold(60)
    assert isinstance(bench.do(task, late), Done)
    assert all(lab.store.head(key) is None for key in task.doomed)


def rows(lab: Lab, run_id: str) -> tuple[list[str], list[str]]:
    """Keys of kept and of retired snapshots."""
    with lab.catalog.transaction(read_only=True) as tx:
        return [s.key for s in tx.snapshots.list(run_id)], [s.key for s in tx.snapshots.retired(run_id)]


def kill(lab: Lab, phase: str) -> None:
    outcome = subprocess.run(
        [sys.executable, "-m", "tests.phema_worker.mortal", phase], env={**os.environ, **lab.env}, check=False
    )
    assert outcome.returncode == -signal.SIGKILL


def mortal_run(lab: Lab) -> tuple[str, list[str]]:
    """A run of that name with files as snapshots. Their content does not matter."""
    run = lab.create_run()
    keys = []
    with lab.catalog.transaction() as tx:
        run_id = tx.runs.create(mortal.RUN, run.config, run.config_hash, run.total_images).id
        for time in TIMES:
            data = f"{run_id}-{time}".encode()
            keys.append(f"runs/{run_id}/snapshots/{time}")
            lab.store.put(keys[-1], data)
            tx.snapshots.add(
                run_id=run_id,
                num_images=time,
                profile=Profile.power(0.05).model_dump(mode="json"),
                dtype="float32",
                key=keys[-1],
                size=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
            )
    return run_id, keys


def check_killed_and_repeated(lab: Lab, phase: str) -> None:
    run_id, keys = mortal_run(lab)
    doomed = [key for key in keys if key not in keys[SURVIVORS]]
    kill(lab, phase)
    kept, retired = rows(lab, run_id)
    there = {info.key for info in lab.store.list(f"runs/{run_id}/")}
    assert set(kept) <= there, "no row that plans may read is without its object"
    if phase == "retire":
        assert (kept, retired, there) == (keys, [], set(keys)), "nothing was given up"
        mortal.give_up(lab.catalog, mortal.RUN, lambda here: None)
    else:
        assert kept == keys[SURVIVORS]
        assert set(retired) == set(doomed)
    deleted = {"retire": 0, "delete-1": 1}.get(phase, len(doomed))
    assert len(there) == len(keys) - deleted
    mortal.attempt(lab.catalog, lab.store, lambda here: None)
    assert rows(lab, run_id) == (keys[SURVIVORS], [])
    assert {info.key for info in lab.store.list(f"runs/{run_id}/")} == set(keys[SURVIVORS])
    with lab.catalog.transaction(read_only=True) as tx:
        (job,) = tx.jobs.list(kind=JobKind.RETAIN).items
        outcomes = [str(attempt.outcome) for attempt in tx.jobs.attempts(job.id)]
    assert job.state is JobState.SUCCEEDED
    assert outcomes == (["succeeded"] if phase == "retire" else ["expired", "succeeded"])


@pytest.mark.parametrize("phase", ["retire", "delete-1", "deleted", "remove"])
def test_whoever_is_killed_while_deleting_is_replaced(lab: Lab, phase: str) -> None:
    check_killed_and_repeated(lab, phase)


def test_so_it_is_on_s3(s3_lab: Lab) -> None:
    check_killed_and_repeated(s3_lab, "delete-1")


def test_what_a_rebuild_makes_of_a_deletion_that_was_cut_short(lab: Lab, fresh: Callable[[str], Catalog]) -> None:
    """A rebuild sees only the store: a retired snapshot that still exists is a snapshot again and can be retired."""
    run, _ = described(lab)
    mortal.give_up(lab.catalog, run.id, lambda here: None)
    kept, retired = rows(lab, run.id)
    lab.store.delete(retired[0])
    empty = fresh("rebuilt.db")
    assert rebuild(empty, lab.store).snapshots == len(kept) + len(retired) - 1
    with empty.transaction() as tx:
        assert {s.key for s in tx.snapshots.list(run.id)} == {*kept, *retired[1:]}
    empty.close()
    assert rebuild(lab.catalog, lab.store).snapshots == 0, "a catalog that is there keeps its word"
    assert rows(lab, run.id) == (kept, retired)


def test_a_rebuild_while_snapshots_are_deleted_brings_none_back(lab: Lab) -> None:
    run, _ = described(lab)
    mortal.give_up(lab.catalog, run.id, lambda here: None)
    kept, _ = rows(lab, run.id)

    def delete_when_all_is_read(done: int, total: int) -> None:
        if done == total:
            mortal.attempt(lab.catalog, lab.store, lambda here: None)

    found = rebuild(lab.catalog, lab.store, delete_when_all_is_read)
    assert (found.snapshots, found.skipped) == (0, {})
    assert rows(lab, run.id) == (kept, [])


def test_a_second_job_of_the_run_finds_what_the_first_has_left(lab: Lab, bench: TaskRunner) -> None:
    run, _ = described(lab)
    mortal.give_up(lab.catalog, run.id, lambda here: None)
    first = claim(lab, JobKind.RETAIN)
    with lab.catalog.transaction() as tx:
        tx.leases.fail(first.id, first.fence, "the store is away", retry=False)
        doomed = sorted(row.id for row in tx.snapshots.retired(run.id))
        key = content_key("retain", doomed)
        second, created = tx.jobs.enqueue(JobKind.RETAIN, payload={}, content_key=key, run_id=run.id)
        assert created
    done = work(lab, bench, JobKind.RETAIN)
    assert done.id == second.id
    assert done.result is not None
    assert done.result["snapshots_removed"] == len(TIMES)
    assert done.result["bytes_freed"] > 0
    assert rows(lab, run.id)[1] == []


def test_a_trainer_that_writes_a_retired_snapshot_again_brings_nothing_back(lab: Lab, bench: TaskRunner) -> None:
    run, _ = described(lab)
    mortal.give_up(lab.catalog, run.id, lambda here: None)
    with lab.catalog.transaction(read_only=True) as tx:
        gone = tx.snapshots.retired(run.id)[0]
    lab.store.put(gone.key, lab.store.get(gone.key))
    with lab.catalog.transaction() as tx:
        row, created = tx.snapshots.add(
            run_id=run.id,
            num_images=gone.num_images,
            profile=gone.profile,
            dtype=gone.dtype,
            key=gone.key,
            size=gone.size,
            sha256=gone.sha256,
        )
    assert (row.id, created) == (gone.id, False)
    work(lab, bench, JobKind.RETAIN)
    assert lab.store.head(gone.key) is None
    assert gone.key not in rows(lab, run.id)[0]
