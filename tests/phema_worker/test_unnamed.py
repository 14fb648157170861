"""Objects of an attempt that has lost its job are listed for deletion, also those that are being deleted meanwhile."""

from __future__ import annotations

import threading

import pytest

from phema.services.phema_worker import attempt as module
from phema.services.phema_worker.attempt import Attempt
from phema.services.phema_worker.tasks import Output, ReconstructTask
from phema.shared.catalog import Catalog, JobKind
from phema.shared.settings import Settings
from phema.shared.snapshots.profile import Profile
from tests.trainer.tiny_runs import tiny_config


def output(row: str, key: str) -> Output:
    return Output(
        result_id=row,
        num_images=16,
        key=key,
        coefficients=(1.0,),
        dtype="float32",
        profile=Profile.power(0.1),
        lineage={},
    )


def test_one_object_that_is_being_deleted_keeps_no_other_off_the_list(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LIST_SECONDS", 0.05)
    keys = ["out/a", "out/b", "out/c"]
    with catalog.transaction() as tx:
        config = tiny_config()
        run = tx.runs.create("digits", config.model_dump(mode="json"), config.config_hash, config.total_images)
        row, _ = tx.reconstructions.find_or_create(
            run_id=run.id,
            num_images=16,
            profile=Profile.power(0.1).model_dump(mode="json"),
            dtype="float32",
            plan={"snapshots": [], "coefficients": [], "predicted_error": 0.0},
        )
        tx.jobs.enqueue(JobKind.RECONSTRUCT, payload={}, content_key="question")
        job = tx.leases.claim([JobKind.RECONSTRUCT], owner="one", lease_seconds=60)
        tx.deletions.release(keys[:1])
    assert job is not None
    with catalog.transaction() as tx:
        assert tx.deletions.claim(10) == keys[:1]
    with catalog.transaction() as tx:
        tx.leases.release(job.id, job.fence)
    lost = Attempt(job, Settings(), catalog, threading.Event())
    task = ReconstructTask("token", (), tuple(output(row.id, key) for key in keys))
    conclusion = threading.Thread(target=lost.conclude, args=(task, None))
    conclusion.start()
    try:
        while not {"out/b", "out/c"} <= listed(catalog):
            assert conclusion.is_alive()
    finally:
        with catalog.transaction() as tx:
            tx.deletions.done(keys[:1])  # the deletion has ended, perhaps before the attempt wrote the object
        conclusion.join()
    assert listed(catalog) == set(keys)


def listed(catalog: Catalog) -> set[str]:
    with catalog.transaction(read_only=True) as tx:
        return tx.deletions.keys()
