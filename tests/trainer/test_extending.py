"""A run that is extended ends with the weights of a run that had the new length from the start."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from phema.administration.rebuild import rebuild
from phema.services.trainer.attempt import TrainingAttempt, load_attempt
from phema.services.trainer.control.terminal_state import finish_job
from phema.services.trainer.local_training import claim_locally, train_attempt, train_locally
from phema.services.trainer.training.checkpoint import CheckpointError, decode_checkpoint, encode_checkpoint
from phema.shared.catalog import Catalog, JobKind, JobState, Run, RunState
from phema.shared.recipes.run_config import RunConfig, hash_of_document
from phema.shared.snapshots import ObjectStore
from tests.trainer.support import (
    checkpoint_times,
    get_run,
    loose_attempt,
    new_catalog,
    snapshots_of,
    tiny_config,
)


def extend(catalog: Catalog, run_id: str, total_images: int) -> Run:
    with catalog.transaction() as tx:
        document = {**tx.runs.get(run_id).config, "total_images": total_images}
        return tx.run_control.extend(
            run_id, config=document, config_hash=hash_of_document(document), total_images=total_images
        )


def go_on(catalog: Catalog, store: ObjectStore) -> Run:
    with catalog.transaction() as tx:
        job = tx.leases.claim([JobKind.TRAIN], owner="local", lease_seconds=3600)
    assert job is not None
    return train_locally(tiny_config(), catalog, store, job)


def test_weights_are_those_of_a_run_of_that_length(local_catalog: Catalog, local_store: ObjectStore) -> None:
    """Bit for bit, with a decaying learning rate, an additional snapshot at the former end, and two extensions."""
    decaying = {"lr_decay_iterations": 5.0, "snapshot_every": 80}
    whole = train_locally(tiny_config(**decaying, total_images=320), local_catalog, local_store, name="whole")
    short = train_locally(tiny_config(**decaying, total_images=112), local_catalog, local_store, name="short")
    assert extend(local_catalog, short.id, 208).run_state is RunState.QUEUED
    assert go_on(local_catalog, local_store).num_images == 208
    extend(local_catalog, short.id, 320)
    longer = go_on(local_catalog, local_store)
    assert (longer.run_state, longer.num_images) == (RunState.SUCCEEDED, 320)
    assert longer.config_hash == whole.config_hash, "equal weights, equal configurations"
    expected = snapshots_of(local_catalog, local_store, "whole")
    found = snapshots_of(local_catalog, local_store, "short")
    assert {time for time, _ in found.keys() - expected.keys()} == {112, 208}
    assert {key: found[key] for key in expected} == expected


def test_a_run_is_extended_while_it_is_paused(local_catalog: Catalog, local_store: ObjectStore) -> None:
    """Its checkpoint was written under the former length."""
    whole = train_locally(tiny_config(total_images=320), local_catalog, local_store, name="whole")
    attempt = claim_locally(tiny_config(total_images=160), local_catalog, name="paused")
    with local_catalog.transaction() as tx:
        tx.run_control.pause(attempt.run_id)
    train_attempt(attempt, local_catalog, local_store)
    with local_catalog.transaction() as tx:
        assert finish_job(tx, attempt) is JobState.PAUSED
    assert checkpoint_times(local_catalog, "paused") == [16]
    extend(local_catalog, attempt.run_id, 320)
    with local_catalog.transaction() as tx:
        tx.run_control.resume(attempt.run_id)
    assert go_on(local_catalog, local_store).run_state is RunState.SUCCEEDED
    assert snapshots_of(local_catalog, local_store, "paused") == snapshots_of(local_catalog, local_store, whole.id)


def test_the_bucket_knows_the_new_length(
    local_catalog: Catalog, local_store: ObjectStore, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = train_locally(tiny_config(total_images=160), local_catalog, local_store)
    extend(local_catalog, run.id, 240)
    extended = go_on(local_catalog, local_store)
    rebuilt_catalog = new_catalog(tmp_path_factory.mktemp("rebuilt"))
    rebuilt = rebuild(rebuilt_catalog, local_store)
    assert (rebuilt.skipped, rebuilt.runs) == ({}, 1)
    found = get_run(rebuilt_catalog, run.id)
    assert (found.run_state, found.total_images) == (RunState.SUCCEEDED, 240)
    assert (found.config, found.config_hash) == (extended.config, extended.config_hash)
    extend(rebuilt_catalog, run.id, 320)
    assert go_on(rebuilt_catalog, local_store).num_images == 320
    rebuilt_catalog.close()


def _attempt(length: int, **fields: Any) -> TrainingAttempt:
    config = tiny_config(total_images=length)
    return TrainingAttempt(
        "job-1", 1, "run-1", "x", config, config.model_dump(mode="json"), config.config_hash, **fields
    )


def test_a_checkpoint_of_an_earlier_version_names_the_whole_configuration() -> None:
    """Its length is one that the run had before, as the catalog's events say."""
    short = loose_attempt(total_images=160)
    data = torch.load(_buffer(encode_checkpoint({"num_images": 16}, short)), weights_only=True)
    del data["training_hash"]
    old = _saved(data)
    assert decode_checkpoint(old, _attempt(160)) == {"num_images": 16}
    assert decode_checkpoint(old, _attempt(320, earlier_lengths=(80, 160))) == {"num_images": 16}
    with pytest.raises(CheckpointError, match="the checkpoint's config_hash is"):
        decode_checkpoint(old, _attempt(320))


def test_a_checkpoint_of_another_configuration_is_refused() -> None:
    data = bytes(encode_checkpoint({"num_images": 16}, loose_attempt(total_images=160)))
    assert decode_checkpoint(data, loose_attempt(total_images=320)) == {"num_images": 16}
    with pytest.raises(CheckpointError, match="the checkpoint's training_hash is"):
        decode_checkpoint(data, loose_attempt(total_images=320, seed=2))


def test_attempts_know_the_lengths_before(local_catalog: Catalog, local_store: ObjectStore) -> None:
    run = train_locally(tiny_config(total_images=160), local_catalog, local_store)
    extend(local_catalog, run.id, 320)
    with local_catalog.transaction() as tx:
        job = tx.leases.claim([JobKind.TRAIN], owner="local", lease_seconds=3600)
    assert job is not None
    attempt = load_attempt(local_catalog, job.id, job.fence)
    assert (attempt.earlier_lengths, attempt.config) == ((160,), RunConfig.model_validate(attempt.document))
    assert attempt.config.total_images == 320


def _buffer(data: memoryview) -> Any:
    import io

    return io.BytesIO(data)


def _saved(document: dict[str, Any]) -> bytes:
    import io

    buffer = io.BytesIO()
    torch.save(document, buffer)
    return buffer.getvalue()
