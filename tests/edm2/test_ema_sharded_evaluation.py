"""`copy_to`, `average_parameters` and averages on the CPU of distributed modules: two processes with gloo."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from phema.shared.edm2.averaging.ema import EmaError, PowerFunctionEMA
from phema.shared.edm2.averaging.named_tensors import local
from tests.edm2.test_ema_sharded import (
    BATCH,
    PROCESSES,
    STEPS,
    WIDTHS,
    Network,
    free_port,
    made,
    train,
)

Made = Callable[[], Any]


class Plain(nn.Module):
    """Shapes that tensor parallelism can divide."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.last = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.first(x).relu())
        return y


def plain() -> Plain:
    torch.manual_seed(0)
    return Plain().double()


def under_ddp() -> Any:
    return nn.parallel.DistributedDataParallel(made())


def under_fsdp2() -> Any:
    module = made()
    fully_shard(module.first)
    return fully_shard(module)


def tensor_parallel() -> Any:
    mesh = init_device_mesh("cpu", (PROCESSES,))
    return parallelize_module(plain(), mesh, {"first": ColwiseParallel(), "last": RowwiseParallel()})


def parts(module: nn.Module) -> list[bytes]:
    tensors = [local(p) for p in module.parameters()] + list(module.buffers())
    return [tensor.numpy().tobytes() for tensor in tensors]


def close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name].to(value.dtype), rtol=1e-9, atol=1e-12, msg=name)


def evaluated(make: Made, single: Made, device: str | None, folder: Path) -> None:
    """Training with evaluations in between ends like training without, and averages are those of one process."""
    reference = single()
    wanted = PowerFunctionEMA(reference, WIDTHS)
    module = make()
    ema = PowerFunctionEMA(module, WIDTHS, device=device)
    x = torch.randn(BATCH, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(99))
    for step in range(STEPS):
        train(reference, wanted, range(step, step + 1))
        train(module, ema, range(step, step + 1))
        copied = single()
        ema.copy_to(copied, 1)
        close(copied.state_dict(), wanted.tensors(1))
        if hasattr(module, "reshard"):
            module.reshard()
        before = parts(module)
        with ema.average_parameters(1), torch.no_grad():
            module.eval()
            copied.eval()
            torch.testing.assert_close(module(x), copied(x), rtol=1e-9, atol=1e-12)
            module.train()
        assert parts(module) == before
        with pytest.raises(ZeroDivisionError), ema.average_parameters(0):
            raise ZeroDivisionError
        assert parts(module) == before
    for index in range(len(WIDTHS)):
        close(ema.tensors(index), wanted.tensors(index))
        target = make()  # sharded in the same way
        ema.copy_to(target, index)
        other = PowerFunctionEMA(target, [0.05])
        close(other.tensors(0), wanted.tensors(index))
        target = fully_shard(single())  # sharded otherwise, or at all
        ema.copy_to(target, index)
        close(PowerFunctionEMA(target, [0.05]).tensors(0), wanted.tensors(index))

    dcp.save({"ema": ema.state_dict()}, checkpoint_id=folder)
    again = PowerFunctionEMA(make(), WIDTHS, device=device)
    state = {"ema": again.state_dict()}
    dcp.load(state, checkpoint_id=folder)
    again.load_state_dict(state["ema"])
    assert again.num_images == STEPS * BATCH * PROCESSES
    own = {name for name, _ in reference.named_parameters()}
    for index in range(len(WIDTHS)):
        found, expected = again.tensors(index), wanted.tensors(index)
        close({n: v for n, v in found.items() if n in own}, {n: v for n, v in expected.items() if n in own})


def mistakes() -> None:
    module = under_fsdp2()
    ema = PowerFunctionEMA(module, WIDTHS)
    train(module, ema, range(1))
    other = Network().double()
    other.last = nn.Linear(7, 2).double()
    with pytest.raises(EmaError, match=r"'last.weight' has shape \(2, 7\); in the averages it has \(1, 7\)"):
        ema.copy_to(other)


def _process(rank: int, port: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=PROCESSES)
    torch.set_num_threads(1)
    try:
        for name, make, single in (
            ("ddp", under_ddp, made),
            ("fsdp2", under_fsdp2, made),
            ("tensor-parallel", tensor_parallel, plain),
        ):
            for device in (None, "cpu"):
                evaluated(make, single, device, folder / f"{name}-{device}")
        mistakes()
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_distributed_modules_are_evaluated_with_their_averages(tmp_path: Path) -> None:
    mp.spawn(_process, (free_port(), tmp_path), nprocs=PROCESSES)  # type: ignore[no-untyped-call]
