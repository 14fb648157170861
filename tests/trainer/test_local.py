"""A whole run in this process: what it writes, and that an interrupted run writes the same."""

from __future__ import annotations

import pytest
import torch

from phema.services.trainer.attempt import load_attempt
from phema.services.trainer.control.terminal_state import finish_job
from phema.services.trainer.local_training import claim_locally, train_attempt, train_locally
from phema.services.trainer.training.batches import Batches
from phema.services.trainer.training.snapshot_writer import CHECKPOINTS_KEPT
from phema.services.trainer.training.step import train_step
from phema.services.trainer.training.training_state import TrainingState
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.catalog import Catalog, JobKind, JobState, LeaseLost
from phema.shared.datasets import open_dataset
from phema.shared.edm2.averaging.ema import PowerFunctionEMA
from phema.shared.snapshots import ObjectStore
from phema.shared.snapshots.files.network_loading import load_model
from phema.shared.snapshots.profile import Profile
from tests.fixtures.catalog import only
from tests.trainer.support import checkpoint_times, get_run, snapshots_of, tiny_config


class Killed(BaseException):
    """Stands for a process that ends between two statements."""


def test_a_run_leaves_the_expected_rows_and_objects(catalog: Catalog, store: ObjectStore) -> None:
    config = tiny_config()
    run = train_locally(config, catalog, store)
    assert (run.state, run.num_images) == (JobState.SUCCEEDED, 320)
    assert run.job.result == {"num_images": 320, "snapshots": 8}
    times = [(t, s) for t in (80, 160, 240, 320) for s in (0.05, 0.10)]
    assert sorted(snapshots_of(catalog, store, run.id)) == times
    with catalog.transaction() as tx:
        checkpoints = tx.checkpoints.all_but_latest(run.id, 0)
        history = tx.history.list(run.id).items
        rows = tx.snapshots.list(run.id)
    assert [c.num_images for c in checkpoints] == [160, 320]
    assert [point.num_images for point in history] == [80, 160, 240, 320]
    # Nothing lies in the store that no row knows.
    known = {row.key for row in rows} | {c.key for c in checkpoints} | {f"runs/{run.id}/run.json"}
    assert {info.key for info in store.list()} == known
    for point in history:
        assert {"loss", "denoising_loss", "learning_rate", "images_per_second", "grad_nonfinite"} <= set(point.values)
        for family in ("activation", "weight"):
            for side in ("enc", "dec"):
                for resolution in (4, 8):
                    for statistic in ("max", "mean"):
                        assert point.values[f"{family}/{side}/{resolution}/{statistic}"] > 0
    assert history[0].values["learning_rate"] == pytest.approx(0.01 * 64 / 80)
    assert all(point.values["grad_nonfinite"] == 0 for point in history)


def test_the_loss_falls(local_catalog: Catalog, local_store: ObjectStore) -> None:
    config = tiny_config(total_images=1600, status_every=400, snapshot_every=1600, checkpoint_every=1600)
    run = train_locally(config, local_catalog, local_store)
    with local_catalog.transaction() as tx:
        history = [point.values for point in tx.history.list(run.id).items]
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert history[-1]["denoising_loss"] < 0.7 * history[0]["denoising_loss"]


def test_a_snapshot_is_the_average_that_was_tracked(local_catalog: Catalog, local_store: ObjectStore) -> None:
    """Every stored tensor equals an average kept directly beside the same training, and loads as a network."""
    config = tiny_config()
    run = train_locally(config, local_catalog, local_store)
    state = TrainingState(config, torch.device("cpu"))
    direct = PowerFunctionEMA(state.denoiser, config.ema_sigma_rels)
    batches = Batches(open_dataset(config.dataset), config, WorkerGroup())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    while state.num_images < 160:
        train_step(state, batches.at(state.num_images), config, WorkerGroup())
        direct.update(state.num_images, config.batch_size)
    torch.set_num_threads(threads)
    with local_catalog.transaction() as tx:
        rows = [row for row in tx.snapshots.list(run.id) if row.num_images == 160]
    for index, row in enumerate(rows):
        loaded = load_model(local_store.get(row.key))
        assert loaded.metadata.profile.sigma_rel == config.ema_sigma_rels[index]
        assert loaded.metadata.config_hash == config.config_hash
        for name, value in loaded.denoiser.state_dict().items():
            assert torch.equal(value, direct.tensors(index)[name]), name


def test_a_traditional_average_is_stored_too(local_catalog: Catalog, local_store: ObjectStore) -> None:
    """Configuration A's EMA: its half-life ramps up; its snapshots are complete, registered and loadable."""
    config = tiny_config(total_images=64, snapshot_every=32, checkpoint_every=64, ema_half_life_images=40)
    config = config.model_copy(update={"ema_rampup_ratio": 0.5})
    run = train_locally(config, local_catalog, local_store)
    assert run.job.result == {"num_images": 64, "snapshots": 6}
    state = TrainingState(config, torch.device("cpu"))
    expected = [value.detach().clone() for value in state.denoiser.parameters()]
    batches = Batches(open_dataset(config.dataset), config, WorkerGroup())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    while state.num_images < 64:
        train_step(state, batches.at(state.num_images), config, WorkerGroup())
        left = 2 ** (-16 / min(40, 0.5 * state.num_images))
        for average, value in zip(expected, state.denoiser.parameters(), strict=True):
            average.mul_(left).add_(value.detach(), alpha=1 - left)
    torch.set_num_threads(threads)
    with local_catalog.transaction() as tx:
        row = tx.snapshots.list(run.id)[-1]
    assert (row.num_images, row.sigma_rel) == (64, None)
    assert row.profile == {"kind": "exponential", "half_life_images": 40, "rampup_ratio": 0.5}
    loaded = load_model(local_store.get(row.key))
    assert loaded.metadata.profile == Profile(kind="exponential", half_life_images=40, rampup_ratio=0.5)
    for average, found in zip(expected, loaded.denoiser.parameters(), strict=True):
        torch.testing.assert_close(found.detach(), average, rtol=1e-5, atol=1e-6)


def test_float16_snapshots_keep_buffers_exact(local_catalog: Catalog, local_store: ObjectStore) -> None:
    config = tiny_config(snapshot_dtype="float16", total_images=80, checkpoint_every=80)
    run = train_locally(config, local_catalog, local_store)
    with local_catalog.transaction() as tx:
        row = tx.snapshots.list(run.id)[0]
    metadata = load_model(local_store.get(row.key)).metadata
    assert (row.dtype, metadata.dtype) == ("float16", "float16")
    assert "unet.emb_fourier.freqs" in metadata.buffers


@pytest.mark.parametrize("stop_after", [1, 11, 13, 20])
def test_a_run_killed_after_any_step_ends_in_the_same_weights(
    stop_after: int, local_catalog: Catalog, local_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 11 is just after the first checkpoint (10), 13 lies between snapshots, 20 is the end of training."""
    config = tiny_config(ema_half_life_images=100)
    whole = train_locally(config, local_catalog, local_store, name="whole")
    attempt = claim_locally(config, local_catalog, name="killed")
    steps = 0
    from phema.services.trainer.training import loop

    original = loop.train_step

    def step_and_die(*arguments: object) -> object:
        nonlocal steps
        steps += 1
        if steps > stop_after:
            raise Killed
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "train_step", step_and_die)
    if stop_after < 20:
        with pytest.raises(Killed):
            train_attempt(attempt, local_catalog, local_store)
        monkeypatch.undo()
        resumed_at = max(checkpoint_times(local_catalog, "killed"), default=0)
        assert resumed_at in (0, 160)
    train_attempt(attempt, local_catalog, local_store)
    with local_catalog.transaction() as tx:
        finish_job(tx, attempt)
    assert get_run(local_catalog, "killed").state is JobState.SUCCEEDED
    assert snapshots_of(local_catalog, local_store, "killed") == snapshots_of(local_catalog, local_store, whole.id)


def test_a_finished_run_is_not_trained_again(
    local_catalog: Catalog, local_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the driver dies after the last checkpoint, the next attempt trains no step again."""
    from phema.services.trainer.training import loop

    attempt = claim_locally(tiny_config(), local_catalog)
    train_attempt(attempt, local_catalog, local_store)

    def never(*_: object) -> object:
        raise AssertionError("a step was taken")

    monkeypatch.setattr(loop, "train_step", never)
    train_attempt(attempt, local_catalog, local_store)
    with local_catalog.transaction() as tx:
        assert finish_job(tx, attempt) is JobState.SUCCEEDED


def test_old_checkpoints_are_deleted_with_their_objects(local_catalog: Catalog, local_store: ObjectStore) -> None:
    config = tiny_config(checkpoint_every=80)
    run = train_locally(config, local_catalog, local_store)
    assert checkpoint_times(local_catalog, run.id) == [240, 320]
    kept = [info.key for info in local_store.list(f"runs/{run.id}/checkpoints/")]
    assert len(kept) == CHECKPOINTS_KEPT


@pytest.mark.parametrize("damage", ["truncated", "deleted", "all"])
def test_a_damaged_checkpoint_is_skipped(damage: str, local_catalog: Catalog, local_store: ObjectStore) -> None:
    config = tiny_config(checkpoint_every=80)
    whole = train_locally(config, local_catalog, local_store, name="whole")
    attempt = claim_locally(config, local_catalog, name="damaged")
    train_attempt(attempt, local_catalog, local_store)
    with local_catalog.transaction() as tx:
        checkpoints = tx.checkpoints.all_but_latest(attempt.run_id, 0)
    for checkpoint in checkpoints if damage == "all" else checkpoints[-1:]:
        path = local_store.local_path(checkpoint.key)
        assert path is not None
        if damage == "truncated":
            path.chmod(0o644)
            path.write_bytes(path.read_bytes()[:1000])
        else:
            path.unlink()
    train_attempt(attempt, local_catalog, local_store)
    assert snapshots_of(local_catalog, local_store, "damaged") == snapshots_of(local_catalog, local_store, whole.id)
    with local_catalog.transaction() as tx:
        for checkpoint in tx.checkpoints.all_but_latest(attempt.run_id, 0):
            assert local_store.head(checkpoint.key) is not None
        assert finish_job(tx, attempt) is JobState.SUCCEEDED


def test_an_attempt_that_lost_its_lease_writes_nothing(local_catalog: Catalog, local_store: ObjectStore) -> None:
    stale = claim_locally(tiny_config(), local_catalog)
    with local_catalog.transaction() as tx:
        tx.leases.release(stale.job_id, stale.fence)
        job = tx.leases.claim([JobKind.TRAIN], owner="another", lease_seconds=60)
    assert job is not None
    with pytest.raises(LeaseLost):
        train_attempt(stale, local_catalog, local_store)
    with local_catalog.transaction() as tx:
        assert tx.snapshots.list(stale.run_id) == []
        assert tx.checkpoints.all_but_latest(stale.run_id, 0) == []
        assert tx.history.list(stale.run_id).items == []
        assert tx.runs.get(stale.run_id).num_images == 0
    with pytest.raises(LeaseLost), local_catalog.transaction() as tx:
        finish_job(tx, stale)
    current = load_attempt(local_catalog, job.id, job.fence)
    train_attempt(current, local_catalog, local_store)
    with local_catalog.transaction() as tx:
        assert finish_job(tx, current) is JobState.SUCCEEDED


def test_a_cancelled_run_stops_at_its_next_step(local_catalog: Catalog, local_store: ObjectStore) -> None:
    attempt = claim_locally(tiny_config(), local_catalog)
    with local_catalog.transaction() as tx:
        tx.jobs.request_cancel(attempt.job_id)
    train_attempt(attempt, local_catalog, local_store)
    with local_catalog.transaction() as tx:
        assert finish_job(tx, attempt) is JobState.CANCELLED
    run = get_run(local_catalog, attempt.run_id)
    assert (run.state, run.num_images) == (JobState.CANCELLED, 16)
    assert snapshots_of(local_catalog, local_store, run.id) == {}


def test_a_cancelled_run_can_be_resumed_where_it_stopped(local_catalog: Catalog, local_store: ObjectStore) -> None:
    whole = train_locally(tiny_config(), local_catalog, local_store, name="whole")
    attempt = claim_locally(tiny_config(), local_catalog, name="resumed")
    with local_catalog.transaction() as tx:
        tx.jobs.request_cancel(attempt.job_id)
    train_attempt(attempt, local_catalog, local_store)
    with local_catalog.transaction() as tx:
        finish_job(tx, attempt)
    assert checkpoint_times(local_catalog, "resumed") == [16]
    with local_catalog.transaction() as tx:
        tx.run_control.resume(attempt.run_id)
        job = tx.leases.claim([JobKind.TRAIN], owner="test", lease_seconds=60)
    assert job is not None
    assert train_locally(attempt.config, local_catalog, local_store, job).state is JobState.SUCCEEDED
    assert snapshots_of(local_catalog, local_store, "resumed") == snapshots_of(local_catalog, local_store, whole.id)


def test_a_run_of_an_older_version_keeps_its_recorded_configuration(
    local_catalog: Catalog, local_store: ObjectStore
) -> None:
    """Simulates a run whose version of phema did not have the field `adam_eps`."""
    config = tiny_config()
    document = {name: value for name, value in config.model_dump(mode="json").items() if name != "adam_eps"}
    with local_catalog.transaction() as tx:
        run = tx.runs.create("older", document, "the hash of then", config.total_images)
        job = tx.leases.claim([JobKind.TRAIN], owner="test", lease_seconds=60)
    assert job is not None
    assert train_locally(config, local_catalog, local_store, job).state is JobState.SUCCEEDED
    with local_catalog.transaction() as tx:
        row = tx.snapshots.list(run.id)[0]
    metadata = load_model(local_store.get(row.key)).metadata
    assert (metadata.config, metadata.config_hash) == (document, "the hash of then")


def test_a_cancel_that_comes_too_late_changes_nothing(local_catalog: Catalog, local_store: ObjectStore) -> None:
    attempt = claim_locally(tiny_config(), local_catalog)
    train_attempt(attempt, local_catalog, local_store)
    with local_catalog.transaction() as tx:
        tx.jobs.request_cancel(attempt.job_id)
    with local_catalog.transaction() as tx:
        assert finish_job(tx, attempt) is JobState.SUCCEEDED


@only("sqlite")
def test_progress_resets_the_count_of_attempts(catalog: Catalog, local_store: ObjectStore) -> None:
    attempt = claim_locally(tiny_config(), catalog)
    with catalog.transaction() as tx:
        assert tx.jobs.get(attempt.job_id).attempts == 1
    train_attempt(attempt, catalog, local_store)
    with catalog.transaction() as tx:
        assert tx.jobs.get(attempt.job_id).attempts == 0
