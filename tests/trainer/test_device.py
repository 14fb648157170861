"""Precision, memory format, compilation and prefetching change the speed of a run, not what it learns."""

from __future__ import annotations

import pytest
import torch

from phema.services.trainer.attempt import TrainingAttempt
from phema.services.trainer.control.worker_resources import CannotTrain, place_workers
from phema.services.trainer.local_training import claim_locally, train_attempt, train_locally
from phema.services.trainer.training import loop
from phema.services.trainer.training.batches import Batches
from phema.services.trainer.training.checkpoint import copy_to_cpu
from phema.services.trainer.training.measurements.magnitudes import measure_magnitudes
from phema.services.trainer.training.precision import UnsupportedPrecision, check_precision
from phema.services.trainer.training.training_state import TrainingState
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.catalog import Catalog
from phema.shared.recipes.run_config import RunConfig
from phema.shared.settings import Settings
from phema.shared.snapshots import ObjectStore
from tests.trainer.support import loose_attempt, snapshots_of
from tests.trainer.tiny_runs import CPU, DATASET, assert_close, movement_error, tiny_config, trained


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_less_than_float32_is_refused_on_cpus(precision: str) -> None:
    attempt = loose_attempt(precision=precision)
    sentence = f"precision {precision} needs a GPU, but this run would be trained on CPUs: on CPU compute in float32"
    with pytest.raises(UnsupportedPrecision, match=sentence):
        check_precision(attempt.config, "cpu")
    check_precision(attempt.config, "cuda")
    check_precision(tiny_config(), "cpu")
    with pytest.raises(CannotTrain, match=sentence):
        place_workers(attempt.config, Settings(), {"CPU": 8.0})
    assert place_workers(attempt.config, Settings(), {"CPU": 8.0, "GPU": 1.0}).use_gpu


def test_the_loop_refuses_it_as_well(local_catalog: Catalog, local_store: ObjectStore) -> None:
    with pytest.raises(UnsupportedPrecision, match="on CPU compute in float32"):
        train_locally(tiny_config(precision="bfloat16"), local_catalog, local_store)


def test_channels_last_changes_the_layout_alone() -> None:
    """Gradients, moments and averages have the strides of the weights; a checkpoint loads in either layout."""
    config = tiny_config(lr_rampup_images=0, network={"attn_resolutions": [4]})
    plain, last = TrainingState(config, CPU), TrainingState(config, CPU, torch.channels_last)
    expected, found = trained(config, plain, 3), trained(config, last, 3)
    assert_close(found, expected, rtol=1e-3, atol=1e-4)
    kernels = [p for p in last.denoiser.parameters() if p.ndim == 4 and p.shape[2] > 1]
    assert kernels
    for kernel in kernels:
        assert kernel.is_contiguous(memory_format=torch.channels_last)
        assert kernel.grad is not None
        assert kernel.grad.stride() == kernel.stride()
        assert last.optimizer.state[kernel]["exp_avg"].stride() == kernel.stride()
    assert last.gradients.flat.abs().sum() > 0

    resumed = TrainingState(config, CPU)
    resumed.load_state_dict(copy_to_cpu(last.state_dict()))
    for parameter in resumed.denoiser.parameters():
        assert resumed.optimizer.state[parameter]["exp_avg"].stride() == parameter.stride()
    assert_close(trained(config, resumed, 2), trained(config, last, 2), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("ahead", [0, 5])
def test_reading_ahead_changes_nothing(
    ahead: int, local_catalog: Catalog, local_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(total_images=160, network={"dropout": 0.1})
    usual = train_locally(config, local_catalog, local_store, name="usual")
    monkeypatch.setattr(loop, "BATCHES_AHEAD", ahead)
    other = train_locally(config, local_catalog, local_store, name="other")
    found, expected = (snapshots_of(local_catalog, local_store, run.id) for run in (other, usual))
    assert found == expected


def test_pictures_that_cannot_be_read_end_the_run(
    local_catalog: Catalog, local_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop re-raises the error of a reader thread and leaves no thread behind."""

    class Broken(Batches):
        def at(self, num_images: int) -> object:  # type: ignore[override]
            if num_images == 64:
                raise OSError("the disk is gone")
            return super().at(num_images)

    monkeypatch.setattr(loop, "Batches", Broken)
    with pytest.raises(OSError, match="the disk is gone"):
        train_locally(tiny_config(), local_catalog, local_store)


def _interrupted(
    config: RunConfig, catalog: Catalog, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> TrainingAttempt:
    """A run that dies after 13 steps, three after its checkpoint, and is resumed to its end."""
    attempt = claim_locally(config, catalog, name="killed")
    steps, original = 0, loop.train_step

    def step_and_die(*arguments: object) -> object:
        nonlocal steps
        steps += 1
        if steps > 13:
            raise KeyboardInterrupt
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "train_step", step_and_die)
    with pytest.raises(KeyboardInterrupt):
        train_attempt(attempt, catalog, store)
    monkeypatch.undo()
    train_attempt(attempt, catalog, store)
    return attempt


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore")  # of the compiler's own
def test_a_compiled_run_learns_the_same_and_resumes_bit_for_bit(
    local_catalog: Catalog, local_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(compile=True, network={"dropout": 0.1}, ema_half_life_images=100)
    whole = train_locally(config, local_catalog, local_store, name="whole")
    torch.compiler.reset()  # as in another process
    killed = _interrupted(config, local_catalog, local_store, monkeypatch)
    found, expected = (snapshots_of(local_catalog, local_store, run) for run in (killed.run_id, whole.id))
    assert found == expected

    plain, compiled = (tiny_config(lr_rampup_images=0, compile=value) for value in (False, True))
    state, eager = TrainingState(compiled, CPU), TrainingState(plain, CPU)
    initial = {name: value.clone() for name, value in eager.denoiser.state_dict().items()}
    assert movement_error(trained(compiled, state, 2), trained(plain, eager, 2), initial) < 0.01
    measured = measure_magnitudes(state, Batches(DATASET, compiled, WorkerGroup()).at(32))
    assert measured["activation/enc/8/mean"] > 0, "hooks see the network that is compiled for training"
    assert movement_error(trained(compiled, state, 2), trained(plain, eager, 2), initial) < 0.05
