"""Forks: what continues from a checkpoint, what begins from a reconstruction, and what is kept for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from phema.administration.rebuild import rebuild
from phema.services.api.forks.schemas import ForkCreate
from phema.services.api.forks.service import fork as create_fork
from phema.services.trainer.attempt import TrainingAttempt, attempt_from
from phema.services.trainer.control.terminal_state import finish_job
from phema.services.trainer.local_training import LEASE_SECONDS, claim_locally, train_attempt, train_locally
from phema.services.trainer.training.checkpoint import CheckpointError, resume
from phema.services.trainer.training.training_state import TrainingState
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.catalog import Catalog, EventKind, JobKind, JobState, Run
from phema.shared.catalog.models import Checkpoint
from phema.shared.datasets import open_dataset
from phema.shared.snapshots import ObjectStore
from phema.shared.snapshots.files.header import SnapshotMetadata
from phema.shared.snapshots.files.snapshot_file import encode
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.object_keys import reconstruction_key
from tests.trainer.support import checkpoint_times, get_run, snapshots_of, tiny_config

AT = 160
END = 320


def fork(catalog: Catalog, run: Run, name: str = "fork", **body: Any) -> TrainingAttempt:
    """Create a fork and claim its job."""
    with catalog.transaction() as tx:
        create_fork(tx, run.id, ForkCreate(name=name, **body), max_attempts=5)
        job = tx.leases.claim([JobKind.TRAIN], owner="local", lease_seconds=LEASE_SECONDS)
        assert job is not None
        return attempt_from(tx.runs.get(name), job)


def train(attempt: TrainingAttempt, catalog: Catalog, store: ObjectStore) -> Run:
    train_attempt(attempt, catalog, store)
    with catalog.transaction() as tx:
        finish_job(tx, attempt)
    return get_run(catalog, attempt.run_id)


def started(attempt: TrainingAttempt, catalog: Catalog, store: ObjectStore) -> TrainingState:
    """The state with which the attempt begins to train."""
    dataset = open_dataset(attempt.config.dataset)
    state = TrainingState(attempt.config, torch.device("cpu"), dataset=dataset.info.fingerprint)
    resume(state, attempt, catalog=catalog, store=store, group=WorkerGroup())
    return state


def test_an_unchanged_fork_ends_as_the_run_itself_bit_for_bit(local_catalog: Catalog, store: ObjectStore) -> None:
    whole = train_locally(tiny_config(), local_catalog, store)
    forked = train(fork(local_catalog, whole, num_images=AT), local_catalog, store)
    assert (forked.state, forked.num_images) == (JobState.SUCCEEDED, END)
    assert forked.config == whole.config
    later = {key: sha for key, sha in snapshots_of(local_catalog, store, whole.id).items() if key[0] > AT}
    assert snapshots_of(local_catalog, store, forked.id) == later
    with local_catalog.transaction() as tx:
        event = tx.run_events.latest_of(whole.id, EventKind.FORKED)
        assert event is not None
        assert event.details == {"run_id": forked.id, "name": "fork", "num_images": AT}


def test_a_fork_may_train_on_with_other_settings(local_catalog: Catalog, local_store: ObjectStore) -> None:
    whole = train_locally(tiny_config(), local_catalog, local_store)
    changes = {"learning_rate": 0.002, "adam_beta2": 0.95, "total_images": 400, "seed": 5}
    changes |= {"dataset": {"max_images": 100}, "snapshot_every": 40, "batch_size": 8}
    attempt = fork(local_catalog, whole, config=changes)
    state = started(attempt, local_catalog, local_store)
    assert state.num_images == END, "the latest checkpoint"
    assert {group["betas"] for group in state.optimizer.param_groups} == {(0.9, 0.95)}
    forked = train(attempt, local_catalog, local_store)
    assert (forked.state, forked.num_images) == (JobState.SUCCEEDED, 400)
    assert {time for time, _ in snapshots_of(local_catalog, local_store, forked.id)} == {360, 400}


def reconstruction(catalog: Catalog, store: ObjectStore, run: Run, dtype: Any = "float32") -> tuple[str, Any]:
    """(id, weights) of a finished reconstruction of the run."""
    state = TrainingState(tiny_config(seed=77), torch.device("cpu"))
    weights = {name: tensor.clone() for name, tensor in state.denoiser.state_dict().items()}
    profile = Profile.power(0.07)
    metadata = SnapshotMetadata(
        run_id=run.id,
        num_images=AT,
        profile=profile,
        dtype=dtype,
        buffers=state.buffers,
        code_version="test",
        config_hash=run.config_hash,
        config=run.config,
    )
    with catalog.transaction() as tx:
        row, _ = tx.reconstructions.find_or_create(
            run_id=run.id,
            num_images=AT,
            profile=profile.model_dump(mode="json"),
            dtype=dtype,
            plan={"snapshots": [], "coefficients": []},
        )
        info = store.put(reconstruction_key(run.id, row.id, "aa"), encode(weights, metadata))
        tx.reconstructions.complete(row.id, info.key, info.size, str(info.sha256))
    return row.id, weights


def test_a_fork_of_a_reconstruction_begins_with_its_weights(local_catalog: Catalog, store: ObjectStore) -> None:
    whole = train_locally(tiny_config(), local_catalog, store)
    identity, weights = reconstruction(local_catalog, store, whole)
    changes = {"ema_sigma_rels": [0.08], "ema_half_life_images": 1000}
    attempt = fork(local_catalog, whole, reconstruction_id=identity, config=changes)
    state = started(attempt, local_catalog, store)
    assert state.num_images == 0
    for name, tensor in state.denoiser.state_dict().items():
        assert tensor.dtype is torch.float32
        assert torch.equal(tensor, weights[name].float()), name
    assert not state.optimizer.state_dict()["state"]
    assert state.traditional_ema is not None
    for name, tensor in state.traditional_ema.tensors().items():
        assert torch.equal(tensor, weights[name].float()), name
    forked = train(attempt, local_catalog, store)
    assert (forked.state, forked.num_images) == (JobState.SUCCEEDED, END)
    assert forked.parent is not None
    assert forked.parent["reconstruction_id"] == identity
    random = train_locally(tiny_config(**changes), local_catalog, store, name="random")
    ours, theirs = (snapshots_of(local_catalog, store, run.id) for run in (forked, random))
    assert ours.keys() == theirs.keys()
    assert all(ours[key] != theirs[key] for key in ours)


def test_the_checkpoint_is_kept_until_the_fork_has_its_own(local_catalog: Catalog, local_store: ObjectStore) -> None:
    attempt = claim_locally(tiny_config(checkpoint_every=80, total_images=480), local_catalog, name="whole")
    train_attempt(attempt, local_catalog, local_store)
    assert checkpoint_times(local_catalog, "whole") == [400, 480]
    with local_catalog.transaction() as tx:
        create_fork(tx, "whole", ForkCreate(name="fork", num_images=400, config={"total_images": 560}), max_attempts=5)
        tx.checkpoints.add(run_id=attempt.run_id, num_images=560, key="later-1", size=1, sha256="a")
        tx.checkpoints.add(run_id=attempt.run_id, num_images=640, key="later-2", size=1, sha256="b")
        assert len(tx.run_forks.needed_keys(attempt.run_id)) == 1
    _drop_surplus(attempt, local_catalog, local_store)
    assert checkpoint_times(local_catalog, "whole") == [400, 560, 640]
    with local_catalog.transaction() as tx:
        job = tx.leases.claim([JobKind.TRAIN], owner="local", lease_seconds=LEASE_SECONDS)
        assert job is not None
        forked = attempt_from(tx.runs.get("fork"), job)
    train(forked, local_catalog, local_store)
    _drop_surplus(attempt, local_catalog, local_store)
    assert checkpoint_times(local_catalog, "whole") == [560, 640]


def _drop_surplus(attempt: TrainingAttempt, catalog: Catalog, store: ObjectStore) -> None:
    """As after a new checkpoint."""
    from phema.services.trainer.training.checkpoint import delete_checkpoints

    with catalog.transaction() as tx:
        surplus: list[Checkpoint] = tx.checkpoints.surplus(attempt.run_id, 2)
    delete_checkpoints(surplus, attempt, catalog=catalog, store=store, keep_for_forks=True)


def test_a_fork_never_begins_with_random_weights(local_catalog: Catalog, local_store: ObjectStore) -> None:
    whole = train_locally(tiny_config(), local_catalog, local_store)
    attempt = fork(local_catalog, whole, num_images=AT)
    assert attempt.parent is not None
    local_store.delete(attempt.parent["key"])
    with pytest.raises(CheckpointError, match=f"the run cannot begin from run {whole.id}: "):
        train_attempt(attempt, local_catalog, local_store)


def test_a_fork_goes_on_from_its_own_checkpoint(local_catalog: Catalog, local_store: ObjectStore) -> None:
    whole = train_locally(tiny_config(), local_catalog, local_store)
    attempt = fork(local_catalog, whole, num_images=AT, config={"checkpoint_every": 80, "total_images": 480})
    train_attempt(attempt, local_catalog, local_store)
    assert attempt.parent is not None
    local_store.delete(attempt.parent["key"])
    assert started(attempt, local_catalog, local_store).num_images == 480


def test_a_rebuild_keeps_the_lineage(local_catalog: Catalog, local_store: ObjectStore, tmp_path: Path) -> None:
    whole = train_locally(tiny_config(), local_catalog, local_store)
    forked = train(fork(local_catalog, whole, num_images=AT), local_catalog, local_store)
    rebuilt = Catalog(f"sqlite:///{tmp_path / 'rebuilt.db'}")
    rebuilt.upgrade()
    assert not rebuild(rebuilt, local_store).skipped
    with rebuilt.transaction() as tx:
        assert tx.runs.get("fork").parent == forked.parent
        assert [run.id for run in tx.run_forks.of(whole.id)] == [forked.id]
    rebuilt.close()
