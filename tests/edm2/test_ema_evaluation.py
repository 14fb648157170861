"""Averages put into modules: `copy_to`, `average_parameters`, and averages that are kept on the CPU."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from phema.shared.edm2.averaging.ema import EmaError, PowerFunctionEMA
from tests.edm2.test_ema_any_module import BATCH, Tied, wander


def tracked(steps: int = 5, **options: Any) -> tuple[Tied, PowerFunctionEMA]:
    torch.manual_seed(3)
    module = Tied()
    ema = PowerFunctionEMA(module, [0.05, 0.10], half_life_images=64, **options)
    for step in range(1, steps + 1):
        wander(module, torch.Generator().manual_seed(step))
        module(torch.arange(5))
        ema.update(step * BATCH)
    return module, ema


def bits(module: nn.Module) -> dict[str, bytes]:
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: value.detach().numpy().tobytes() for name, value in tensors.items()}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, value in found.items():
        assert torch.equal(value, expected[name].to(value.dtype)), name


@pytest.mark.parametrize("index", [0, 1, 2])
def test_copy_to_another_module(index: int) -> None:
    _, ema = tracked()
    expected = ema.tensors(index)
    for target, plain in (
        (Tied(), None),
        (nn.DataParallel(inner := Tied()), inner),
        (torch.compile(inner := Tied(), backend="eager"), inner),
        (checkpoint_wrapper(inner := Tied()), inner),
        (Tied().bfloat16(), None),
        (Tied().double(), None),
    ):
        dtypes = [p.dtype for p in target.parameters()]
        ema.copy_to(target, index)
        assert [p.dtype for p in target.parameters()] == dtypes
        same((plain or target).state_dict(), expected)


def test_averages_of_a_compiled_module_go_into_a_plain_one() -> None:
    module = nn.Sequential(nn.Linear(2, 2), torch.compile(nn.Linear(2, 2), backend="eager"))
    ema = PowerFunctionEMA(module, [0.05])
    wander(module, torch.Generator().manual_seed(0))
    ema.update(BATCH)
    plain = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    ema.copy_to(plain)
    same(plain.state_dict(), ema.tensors(0))
    x = torch.randn(3, 2)
    with ema.average_parameters() as averaged, torch.no_grad():
        assert torch.equal(averaged(x), plain(x))


def test_copy_to_a_module_of_another_shape_changes_nothing() -> None:
    _, ema = tracked()
    other = Tied()
    other.frozen = nn.Parameter(torch.zeros(3))
    before = bits(other)
    with pytest.raises(EmaError, match=r"'frozen' has shape \(3,\); in the averages it has \(2,\)"):
        ema.copy_to(other)
    assert bits(other) == before
    with pytest.raises(EmaError, match="'bias' is in the module's state_dict only; give a module of the same arch"):
        ema.copy_to(nn.Linear(2, 2))


@pytest.mark.parametrize("device", [None, "cpu"])
def test_a_block_holds_the_average_and_puts_everything_back(device: str | None) -> None:
    module, ema = tracked(device=device)
    with torch.no_grad():  # bits that no arithmetic would keep: a NaN with a payload, and -0
        module.frozen.view(torch.int32).copy_(torch.tensor([0x7FC12345, -(2**31)]))
    before, own = bits(module), dict(module.named_parameters())
    for index in range(3):
        average = copy.deepcopy(ema.tensors(index))
        with ema.average_parameters(index) as averaged:
            assert averaged is module
            same(module.state_dict(), average)
            module.train()
            module(torch.arange(5))  # measures BatchNorm's statistics again
            module.scratch = torch.ones(7)
        assert bits(module) == before
        assert all(own[name] is parameter for name, parameter in module.named_parameters())
    with pytest.raises(RuntimeError, match="evaluation failed"), ema.average_parameters():
        raise RuntimeError("evaluation failed")
    assert bits(module) == before


def test_training_goes_on_as_if_nothing_had_been_evaluated() -> None:
    def train(evaluated: bool) -> dict[str, bytes]:
        torch.manual_seed(4)
        plain = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))
        module: Any = torch.compile(plain, backend="aot_eager")
        optimizer, ema = torch.optim.Adam(module.parameters(), lr=0.01), PowerFunctionEMA(module, [0.10])
        for step in range(1, 9):
            optimizer.zero_grad()
            module(torch.randn(BATCH, 4)).square().mean().backward()
            if evaluated:  # also between backward and the optimizer's step
                with ema.average_parameters():
                    module.eval()
                    module(torch.ones(2, 4))
                    module.train()
            optimizer.step()
            ema.update(step * BATCH)
        return bits(plain) | {f"average {k}": v.numpy().tobytes() for k, v in ema.tensors(0).items()}

    assert train(True) == train(False)


def test_averages_are_not_averaged_again() -> None:
    module, ema = tracked()
    with ema.average_parameters():
        with pytest.raises(EmaError, match="holds averaged weights now; leave the block of average_parameters before"):
            ema.update(6 * BATCH)
        with pytest.raises(EmaError, match="holds averaged weights already"), ema.average_parameters(1):
            pass
        same(module.state_dict(), ema.tensors(0))
    ema.update(6 * BATCH)


def test_averages_on_the_cpu_are_the_same() -> None:
    """The weights change on the line after `update`, while the thread may still be at work."""
    _, beside = tracked(40)
    _, offloaded = tracked(40, device="cpu")
    for index in range(3):
        same(offloaded.tensors(index), beside.tensors(index))
    module, resumed = tracked(20, device="cpu")
    saved = copy.deepcopy((module.state_dict(), resumed.state_dict()))
    again, other = tracked(1, device="cpu")
    again.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    for step in range(21, 41):
        wander(again, torch.Generator().manual_seed(step))
        again(torch.arange(5))
        other.update(step * BATCH)
    for index in range(3):
        same(other.tensors(index), beside.tensors(index))


def test_bfloat16_is_averaged_in_float32_on_the_cpu() -> None:
    averages = []
    for device in (None, "cpu"):
        torch.manual_seed(0)
        module = nn.Linear(3, 3).bfloat16()
        ema = PowerFunctionEMA(module, [0.10], device=device)
        for step in range(1, 20):
            wander(module, torch.Generator().manual_seed(step))
            ema.update(step * BATCH)
        averages.append(ema.tensors(0))
        assert averages[-1]["weight"].dtype == torch.float32
    same(*averages)


def test_the_thread_ends_with_the_averages() -> None:
    _, ema = tracked(device="cpu")
    (thread,) = [t for t in threading.enumerate() if t.name.startswith("phema-ema")]
    ema.tensors(0)
    del ema
    thread.join(timeout=30)
    assert not thread.is_alive()


def test_another_device_is_refused() -> None:
    with pytest.raises(EmaError, match="device 'cuda:1' must be 'cpu', or None for the device of the parameters"):
        PowerFunctionEMA(nn.Linear(1, 1), device="cuda:1")
