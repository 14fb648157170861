"""The list of objects that no row names: what is due, who may delete it, and who may write it again."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, text

from phema.shared.catalog import BeingDeleted, Catalog, JobKind
from phema.shared.catalog.engine import parse_url
from phema.shared.catalog.repositories.deletions import CLAIM_SECONDS
from tests.catalog.conftest import ask


def claimed(catalog: Catalog, *keys: str) -> list[str]:
    with catalog.transaction() as tx:
        return sorted(tx.deletions.claim(100, keys or None))


def test_outputs_are_due_when_their_job_has_ended_without_naming_them(catalog: Catalog) -> None:
    ask(catalog)
    with catalog.transaction() as tx:
        job = tx.leases.claim(list(JobKind), owner="one", lease_seconds=60.0)
        assert job is not None
        tx.deletions.expect(job.id, ["named", "left"])
    assert claimed(catalog) == [], "the job may still name them"
    with catalog.transaction() as tx:
        tx.leases.release(job.id, job.fence)
    assert claimed(catalog) == [], "the next attempt may"
    with catalog.transaction() as tx:
        again = tx.leases.claim(list(JobKind), owner="other", lease_seconds=60.0)
        assert again is not None
        tx.deletions.named(["named"])
        tx.leases.succeed(again.id, again.fence)
    assert claimed(catalog) == ["left"]
    assert claimed(catalog) == [], "it is claimed"
    with catalog.transaction() as tx:
        tx.deletions.done(["left"])
        assert tx.deletions.keys() == set()


def test_a_cancel_between_two_attempts_makes_them_due(catalog: Catalog) -> None:
    ask(catalog)
    with catalog.transaction() as tx:
        job = tx.leases.claim(list(JobKind), owner="one", lease_seconds=60.0)
        assert job is not None
        tx.deletions.expect(job.id, ["partial"])
        tx.leases.fail(job.id, job.fence, "It broke.", retry=True)
        tx.jobs.request_cancel(job.id)
    assert claimed(catalog) == ["partial"]


def test_what_is_being_deleted_is_written_again_only_after_the_claim(catalog: Catalog, catalog_url: str) -> None:
    job = ask(catalog)
    with catalog.transaction() as tx:
        tx.deletions.release(["a", "b"])
    assert claimed(catalog, "a") == ["a"]
    with catalog.transaction() as tx:
        tx.deletions.expect(job.id, ["b"])
    with pytest.raises(BeingDeleted, match="Object a is being deleted"), catalog.transaction() as tx:
        tx.deletions.expect(job.id, ["a"])
    assert claimed(catalog) == [], "b is expected by a job now"
    engine = create_engine(parse_url(catalog_url))
    with engine.begin() as connection:  # the process that claimed it died long ago
        connection.execute(text(f"UPDATE deletions SET claimed_at = claimed_at - {CLAIM_SECONDS + 1} WHERE key = 'a'"))
    engine.dispose()
    with catalog.transaction() as tx:
        tx.deletions.expect(job.id, ["a"])
        tx.deletions.done(["a"])  # the dead one, come back
        assert tx.deletions.keys() == {"a", "b"}


def test_trouble_lasts_until_the_attempt_ends(catalog: Catalog) -> None:
    ask(catalog)
    with catalog.transaction() as tx:
        job = tx.leases.claim(list(JobKind), owner="one", lease_seconds=60.0)
        assert job is not None
        tx.leases.set_trouble(job.id, job.fence, "the store is full")
        tx.leases.heartbeat(job.id, job.fence, lease_seconds=60.0, message="1 of 2")
    with catalog.transaction() as tx:
        assert (tx.jobs.get(job.id).message, tx.jobs.get(job.id).trouble) == ("1 of 2", "the store is full")
        tx.leases.release(job.id, job.fence)
    with catalog.transaction() as tx:
        assert tx.jobs.get(job.id).trouble is None


def test_a_heartbeat_keeps_the_message_that_it_must_not_replace(catalog: Catalog) -> None:
    ask(catalog)
    with catalog.transaction() as tx:
        job = tx.leases.claim(list(JobKind), owner="one", lease_seconds=60.0)
    assert job is not None
    said = []
    for message, keep in (("waiting", "started"), ("started", None), ("waiting", "started"), ("1 of 2", None)):
        with catalog.transaction() as tx:
            tx.leases.heartbeat(job.id, job.fence, lease_seconds=60.0, message=message, keep=keep)
        with catalog.transaction(read_only=True) as tx:
            said.append(tx.jobs.get(job.id).message)
    assert said == ["waiting", "started", "started", "1 of 2"]
