"""Training, timing and averages on one GPU.

`make gpu` runs this folder without the fixtures of other tests, in an environment that may have neither Ray nor the
packages of the server.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from phema.services.trainer.training.batches import Batches
from phema.services.trainer.training.measurements.magnitudes import measure_magnitudes
from phema.services.trainer.training.measurements.stopwatch import Stopwatch
from phema.services.trainer.training.training_state import TrainingState
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.edm2.averaging.ema import PowerFunctionEMA
from phema.shared.edm2.device import prepare_device
from tests.trainer.tiny_runs import CPU, DATASET, assert_close, movement_error, tiny_config, trained

pytestmark = pytest.mark.gpu


@pytest.fixture
def cuda() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    device = torch.device("cuda", 0)
    prepare_device(device)
    return device


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


def test_a_gpu_run_resumes_on_a_cpu(cuda: torch.device, tmp_path: Path) -> None:
    config = tiny_config(lr_rampup_images=0)
    state = TrainingState(config, cuda)
    trained(config, state, 2, WorkerGroup(0, 1, cuda))
    resumed = TrainingState(config, CPU)
    file = tmp_path / "checkpoint"
    torch.save(state.state_dict(), file)
    resumed.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    found, expected = trained(config, resumed, 2), trained(config, state, 2, WorkerGroup(0, 1, cuda))
    assert_close(found, expected, rtol=1e-2, atol=1e-2)


def test_a_gpu_is_timed_by_its_own_stream(cuda: torch.device) -> None:
    watch, matrix = Stopwatch(cuda), torch.randn(4096, 4096, device=cuda)
    began = time.perf_counter()
    for _ in range(100):
        watch.begin()
        for _ in range(4):
            matrix = matrix @ matrix / 64
        watch.lap("forward_backward")
        watch.lap("optimizer")
    submitted = time.perf_counter() - began
    with watch.snapshot():
        matrix.cpu()
    means = watch.means()
    assert means["forward_backward"] > 10 * means["optimizer"]
    assert means["snapshot"] > 0, "timed, although its step was not"
    # Submitting takes a fraction of the work: the loop has not waited for it.
    assert submitted < 64 * means["forward_backward"]


def test_averages_on_the_cpu_are_those_on_the_device(cuda: torch.device) -> None:
    """The weights change on the device right after each update, while they are still being copied."""
    module = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(8))).cuda()
    beside, offloaded = PowerFunctionEMA(module, [0.05]), PowerFunctionEMA(module, [0.05], device="cpu")
    for step in range(1, 21):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter))
        beside.update(64 * step)
        offloaded.update(64 * step)
    expected = beside.tensors(0)
    for name, value in offloaded.tensors(0).items():
        assert value.device.type == "cpu"
        torch.testing.assert_close(value, expected[name].cpu(), rtol=1e-5, atol=1e-5)
    for ema in (beside, offloaded):
        before = [p.detach().clone() for p in module.parameters()]
        with ema.average_parameters():
            for name, value in module.state_dict().items():
                torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-5)
        assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
        other = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(8))).bfloat16()
        ema.copy_to(other)
        for name, value in other.state_dict().items():
            torch.testing.assert_close(value.float(), expected[name].cpu(), rtol=2**-7, atol=1e-5)


def test_averages_follow_a_module_to_its_device(cuda: torch.device) -> None:
    module = nn.Linear(2, 2)
    ema = PowerFunctionEMA(module, [0.05])
    ema.update(64)
    module.cuda()
    ema.update(128)
    assert ema.tensors(0)["weight"].is_cuda
