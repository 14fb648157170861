"""Precision, memory format, compilation and prefetching change the speed of a run, not what it learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from phema.services.trainer.attempt import TrainingAttempt
from phema.services.trainer.control.worker_resources import CannotTrain, place_workers
from phema.services.trainer.local_training import claim_locally, train_attempt, train_locally
from phema.services.trainer.training import loop
from phema.services.trainer.training.batches import Batches
from phema.services.trainer.training.checkpoint import copy_to_cpu
from phema.services.trainer.training.measurements.magnitudes import measure_magnitudes
from phema.services.trainer.training.precision import UnsupportedPrecision, check_precision
from phema.services.trainer.training.step import train_step
from phema.services.trainer.training.training_state import TrainingState
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.catalog import Catalog
from phema.shared.datasets import open_dataset
from phema.shared.edm2.device import prepare_device
from phema.shared.recipes.run_config import DatasetConfig, RunConfig
from phema.shared.settings import Settings
from phema.shared.snapshots import ObjectStore
from tests.trainer.support import loose_attempt, snapshots_of, tiny_config

CPU = torch.device("cpu")
DATASET = open_dataset(DatasetConfig())


def trained(config: RunConfig, state: TrainingState, steps: int, group: WorkerGroup | None = None) -> dict[str, Tensor]:
    """The weights after `steps` more, as contiguous float32 on the CPU."""
    group = group or WorkerGroup()
    batches = Batches(DATASET, config, group)
    for _ in range(steps):
        train_step(state, batches.at(state.num_images), config, group)
    return {name: value.float().cpu().contiguous() for name, value in state.denoiser.state_dict().items()}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], rtol: float, atol: float) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=rtol, atol=atol, msg=lambda m, name=name: f"{name}: {m}")


def movement_error(found: dict[str, Tensor], expected: dict[str, Tensor], initial: dict[str, Tensor]) -> float:
    """Distance between two trainings' ends over the distance from their beginning.

    Adam's first steps follow the sign of gradients, however small: single weights may differ by a whole step.
    """
    different = torch.cat([(found[name] - expected[name]).flatten() for name in expected])
    moved = torch.cat([(expected[name] - initial[name]).flatten() for name in expected])
    return float(different.norm() / moved.norm())


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


@pytest.fixture
def cuda(tmp_path: Path) -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    device = torch.device("cuda", 0)
    prepare_device(device)
    return device


@pytest.mark.gpu
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")  # of the compiler's own
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_a_gpu_learns_what_a_cpu_does(precision: str, compiled: bool, cuda: torch.device, tmp_path: Path) -> None:
    """Four steps in every precision against float32 on the CPU: the weights' movement agrees. NCCL accepts the
    gradients' memory format."""
    network = {"attn_resolutions": [4]}
    exact = tiny_config(lr_rampup_images=0, network=network)
    reference = TrainingState(exact, CPU)
    initial = {name: value.clone() for name, value in reference.denoiser.state_dict().items()}
    expected = trained(exact, reference, 4)
    config = tiny_config(lr_rampup_images=0, network=network, precision=precision, device="cuda", compile=compiled)
    dist.init_process_group("nccl", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        state = TrainingState(config, cuda)
        group = WorkerGroup(0, 1, cuda)
        found = trained(config, state, 4, group)
        gradients = state.gradients.flat.clone()
        dist.all_reduce(state.gradients.flat)
        assert torch.equal(state.gradients.flat, gradients)
    finally:
        dist.destroy_process_group()
    assert all(p.dtype is torch.float32 for p in state.denoiser.parameters())
    tolerance = {"float32": 0.05, "float16": 0.15, "bfloat16": 0.5}[precision]
    assert movement_error(found, expected, initial) < tolerance
    batch = Batches(DATASET, config, group).at(64)
    assert all(value > 0 for value in measure_magnitudes(state, batch).values())


@pytest.mark.gpu
def test_a_gpu_run_resumes_on_a_cpu(cuda: torch.device) -> None:
    config = tiny_config(lr_rampup_images=0)
    state = TrainingState(config, cuda)
    trained(config, state, 2, WorkerGroup(0, 1, cuda))
    resumed = TrainingState(config, CPU)
    resumed.load_state_dict(copy_to_cpu(state.state_dict()))
    found, expected = trained(config, resumed, 2), trained(config, state, 2, WorkerGroup(0, 1, cuda))
    assert_close(found, expected, rtol=1e-2, atol=1e-2)
