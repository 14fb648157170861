"""Leases are ended when a worker fell silent, and not when it could not speak."""

from __future__ import annotations

import time

from phema.shared.catalog import Catalog, Job, JobKind, JobState
from phema.shared.service_runtime.lease_expiry import LeaseExpiry
from tests.fixtures.catalog import only

KINDS = [JobKind.EVALUATE]


def silent_job(catalog: Catalog, question: str) -> Job:
    """A job whose lease ran out a minute ago."""
    with catalog.transaction() as tx:
        tx.jobs.enqueue(JobKind.EVALUATE, payload={}, content_key=question)
        job = tx.leases.claim(KINDS, owner="worker", lease_seconds=-60)
    assert job is not None
    return job


def look_until_expired(expiry: LeaseExpiry) -> list[Job]:
    deadline = time.monotonic() + 60
    while not (expired := expiry.expire()):
        assert time.monotonic() < deadline
    return expired


def state(catalog: Catalog, job: Job) -> JobState:
    with catalog.transaction(read_only=True) as tx:
        return tx.jobs.get(job.id).state


def test_a_new_process_gives_every_worker_one_lease_to_speak(catalog: Catalog) -> None:
    job = silent_job(catalog, "question")
    assert LeaseExpiry(catalog, KINDS, lease_s=3600).expire() == []
    assert state(catalog, job) is JobState.RUNNING
    assert [job.id for job in look_until_expired(LeaseExpiry(catalog, KINDS, lease_s=0.2))] == [job.id]


def test_so_does_one_that_has_not_seen_the_catalog_for_a_while(catalog: Catalog) -> None:
    expiry = LeaseExpiry(catalog, KINDS, lease_s=0.5)
    silent_job(catalog, "in touch")
    look_until_expired(expiry)
    job = silent_job(catalog, "after an outage")
    time.sleep(0.3)  # the outage: more than half a lease between two looks
    assert expiry.expire() == []
    assert state(catalog, job) is not JobState.QUEUED
    look_until_expired(expiry)


@only("sqlite")
def test_other_kinds_are_left_alone(catalog: Catalog) -> None:
    job = silent_job(catalog, "question")
    others = LeaseExpiry(catalog, [JobKind.TRAIN], lease_s=0.0)
    assert [others.expire() for _ in range(3)] == [[]] * 3
    assert state(catalog, job) is JobState.RUNNING
