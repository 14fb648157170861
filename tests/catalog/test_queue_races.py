"""Concurrent workers: no job is claimed twice or lost, and no request becomes two jobs."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from phema.shared.catalog import Catalog, JobKind, JobState, LeaseLost, NameTaken
from tests.catalog.conftest import Clockwork, ask, claim

THREADS = 8


def test_threads_claim_every_job_once(catalog: Catalog) -> None:
    with catalog.transaction() as tx:
        ids = {tx.jobs.enqueue(JobKind.EVALUATE, payload={}, content_key=f"{i}")[0].id for i in range(120)}
    start = threading.Barrier(THREADS)

    def claim_all(worker: int) -> list[str]:
        start.wait()
        claimed = []
        while (job := claim(catalog, owner=f"worker {worker}")) is not None:
            claimed.append(job.id)
        return claimed

    with ThreadPoolExecutor(THREADS) as pool:
        claimed = [job_id for part in pool.map(claim_all, range(THREADS)) for job_id in part]
    assert len(claimed) == len(ids)
    assert set(claimed) == ids


def test_processes_claim_every_job_once(catalog: Catalog, catalog_url: str) -> None:
    with catalog.transaction() as tx:
        ids = {tx.jobs.enqueue(JobKind.EVALUATE, payload={}, content_key=f"{i}")[0].id for i in range(120)}
    program = [sys.executable, "-m", "tests.catalog.processes", "claim_all", catalog_url]
    workers = [
        subprocess.Popen([*program, f"process {i}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for i in range(3)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    claimed = [job_id for worker in workers for job_id in worker.communicate()[0].split()]
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert len(claimed) == len(ids)
    assert set(claimed) == ids


def test_a_question_asked_at_once_is_one_job(catalog: Catalog) -> None:
    start = threading.Barrier(THREADS)

    def race(_: int) -> list[tuple[str, bool]]:
        answers = []
        for question in range(10):
            start.wait()
            with catalog.transaction() as tx:
                job, created = tx.jobs.enqueue(JobKind.RECONSTRUCT, payload={}, content_key=f"question {question}")
            answers.append((job.id, created))
        return answers

    with ThreadPoolExecutor(THREADS) as pool:
        asked = list(pool.map(race, range(THREADS)))
    for answers in zip(*asked, strict=True):
        assert len({job_id for job_id, _ in answers}) == 1
        assert sum(created for _, created in answers) == 1


def test_a_question_asked_while_its_job_ends_is_answered_or_asked_anew(catalog: Catalog) -> None:
    """One thread enqueues, the other fails the jobs: at most one job is live at a time, and each request gets one."""
    rounds = 60
    done = threading.Event()
    asked = [ask(catalog)]

    def fail_all() -> int:
        failed = 0
        while True:
            asking_is_over = done.is_set()
            job = claim(catalog)
            if job is not None:
                with catalog.transaction() as tx:
                    tx.leases.fail(job.id, job.fence, "It broke.", retry=False)
                failed += 1
            elif asking_is_over:
                return failed

    with ThreadPoolExecutor(1) as pool:
        failing = pool.submit(fail_all)
        try:
            asked += [ask(catalog) for _ in range(rounds)]
        finally:
            done.set()
        assert failing.result() == len({job.id for job in asked})
    with catalog.transaction() as tx:
        states = Counter(job.state for job in tx.jobs.list(limit=1000).items)
    assert states == {JobState.FAILED: len({job.id for job in asked})}


def test_racing_runs_with_one_name(catalog: Catalog) -> None:
    start = threading.Barrier(THREADS)

    def create(_: int) -> bool:
        start.wait()
        try:
            with catalog.transaction() as tx:
                tx.runs.create("digits", {}, "hash", total_images=1)
        except NameTaken:
            return False
        return True

    with ThreadPoolExecutor(THREADS) as pool:
        assert sum(pool.map(create, range(THREADS))) == 1
    with catalog.transaction() as tx:
        assert len(tx.runs.list().items) == len(tx.jobs.list().items) == 1


def test_cancel_racing_a_claim_is_never_forgotten(catalog: Catalog) -> None:
    for i in range(15):
        job_id = ask(catalog, f"question {i}").id
        start = threading.Barrier(2)

        def cancel(job_id: str = job_id, start: threading.Barrier = start) -> None:
            start.wait()
            with catalog.transaction() as tx:
                tx.jobs.request_cancel(job_id)

        def take(start: threading.Barrier = start) -> bool:
            start.wait()
            return claim(catalog) is not None

        with ThreadPoolExecutor(2) as pool:
            cancelling, taking = pool.submit(cancel), pool.submit(take)
            cancelling.result()
            taken = taking.result()
        with catalog.transaction() as tx:
            job = tx.jobs.get(job_id)
            assert job.cancel_requested
            assert job.state is (JobState.RUNNING if taken else JobState.CANCELLED)
            if taken:
                assert tx.leases.heartbeat(job.id, job.fence, lease_seconds=60)
                tx.leases.cancelled(job.id, job.fence)


def test_whatever_threads_do_every_job_ends_once(catalog: Catalog, clockwork: Clockwork) -> None:
    """Workers that work, fail, stop their heartbeats and return late, with users who cancel and leases that expire."""
    with catalog.transaction() as tx:
        ids = [
            tx.jobs.enqueue(JobKind.EVALUATE, payload={}, content_key=f"{i}", max_attempts=3)[0].id for i in range(24)
        ]
    ends: list[str] = []
    cancelled_in_queue: set[str] = set()
    unfinished = threading.Event()

    def worker(seed: int) -> None:
        dice = random.Random(seed)
        while not unfinished.is_set():
            job = claim(catalog, owner=f"worker {seed}")
            if job is None:
                clockwork.pass_pauses()
                with catalog.transaction() as tx:
                    ends.extend(job.id for job in tx.leases.expire() if job.state.terminal)
                    if all(tx.jobs.get(one).state.terminal for one in ids):
                        return
                continue
            if dice.random() < 0.3:
                clockwork.run_out(job.id)
            if dice.random() < 0.2:
                with catalog.transaction() as tx:
                    queued = tx.jobs.get(job.id).state is JobState.QUEUED
                    # Two that cancel a queued job at once are both told that it is cancelled: no count, but a set.
                    if tx.jobs.request_cancel(job.id).state is JobState.CANCELLED and queued:
                        cancelled_in_queue.add(job.id)
            move = dice.choice(["succeed", "fail", "retry", "release", "cancelled", "silence"])
            try:
                with catalog.transaction() as tx:
                    tx.leases.heartbeat(job.id, job.fence, lease_seconds=60)
                    if move == "succeed":
                        state = tx.leases.succeed(job.id, job.fence).state
                    elif move in ("fail", "retry"):
                        state = tx.leases.fail(job.id, job.fence, "It broke.", retry=move == "retry")
                    elif move == "release":
                        state = tx.leases.release(job.id, job.fence).state
                    elif move == "cancelled":
                        state = tx.leases.cancelled(job.id, job.fence).state
                    else:
                        state = JobState.RUNNING
                if state.terminal:
                    ends.append(job.id)
                if move == "silence":
                    clockwork.run_out(job.id)
            except LeaseLost:
                continue

    with ThreadPoolExecutor(6) as pool:
        working = [pool.submit(worker, seed) for seed in range(6)]
        try:
            for one in working:
                one.result()
        finally:
            unfinished.set()
    assert set(Counter(ends).values()) <= {1}, "no job ended twice"
    assert set(ids) - set(ends) <= cancelled_in_queue, "each job ended"
    with catalog.transaction() as tx:
        assert all(tx.jobs.get(job_id).state is JobState.CANCELLED for job_id in cancelled_in_queue), "ends are final"
        for job_id in ids:
            attempts = tx.jobs.attempts(job_id)
            assert [attempt.number for attempt in attempts] == list(range(1, len(attempts) + 1))
            assert all(attempt.outcome is not None for attempt in attempts)
