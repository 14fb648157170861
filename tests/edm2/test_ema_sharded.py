"""`PowerFunctionEMA` under DistributedDataParallel and FSDP2: two processes on the CPU with gloo.

They save and load as docs/own-training.md shows.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

from phema.shared.edm2.averaging.ema import EmaError, PowerFunctionEMA

WIDTHS = (0.05, 0.10)
BATCH, STEPS, HALF = 8, 6, 3
PROCESSES = 2


class Network(nn.Module):
    """Shapes that do not divide by two, one that leaves a process without any, and running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 7)
        self.norm = nn.BatchNorm1d(7)
        self.last = nn.Linear(7, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.norm(self.first(x)).relu())
        return y


def made() -> Network:
    torch.manual_seed(0)
    return Network().double()


def optimizer(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.1)


def train(module: nn.Module, ema: PowerFunctionEMA, steps: range) -> None:
    """Every process sees the same batches, so that one process alone is the reference."""
    descent = optimizer(module)
    for step in steps:
        x = torch.randn(BATCH, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        descent.zero_grad()
        module(x).square().mean().backward()
        descent.step()
        ema.update((step + 1) * BATCH * PROCESSES)


def alone(steps: int = STEPS) -> list[dict[str, Tensor]]:
    module = made()
    ema = PowerFunctionEMA(module, WIDTHS, half_life_images=64)
    train(module, ema, range(steps))
    return [ema.tensors(index) for index in range(len(ema))]


def same(ema: PowerFunctionEMA, wanted: list[dict[str, Tensor]]) -> None:
    for index, expected in enumerate(wanted):
        found = ema.tensors(index)
        assert list(found) == list(expected)
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-12, msg=f"{index}: {name}")


def under_ddp(folder: Path) -> None:
    module = nn.parallel.DistributedDataParallel(made())
    ema = PowerFunctionEMA(module, WIDTHS, half_life_images=64)
    train(module, ema, range(STEPS))
    assert not ema.sharded
    same(ema, alone())


def sharded() -> tuple[Any, PowerFunctionEMA]:
    module = made()
    fully_shard(module.first)
    fully_shard(module)
    return module, PowerFunctionEMA(module, WIDTHS, half_life_images=64)


def under_fsdp2(folder: Path) -> None:
    module, ema = sharded()
    train(module, ema, range(HALF))
    assert ema.sharded
    same(ema, alone(HALF))
    saved = {"net": module.state_dict(), "ema": ema.state_dict()}
    kept = sum(value._local_tensor.numel() for value in saved["ema"]["averages"][0].values())
    assert kept < sum(p.numel() for p in made().parameters())
    dcp.save(saved, checkpoint_id=folder / "checkpoint")

    resumed_module, resumed = sharded()
    loaded = {"net": resumed_module.state_dict(), "ema": resumed.state_dict()}
    dcp.load(loaded, checkpoint_id=folder / "checkpoint")
    resumed_module.load_state_dict(loaded["net"])
    resumed.load_state_dict(loaded["ema"])
    assert resumed.num_images == HALF * BATCH * PROCESSES
    train(resumed_module, resumed, range(HALF, STEPS))
    same(resumed, alone())

    # Averages of one process, or of a run that was not sharded, go on in a sharded one.
    single = made()
    of_one = PowerFunctionEMA(single, WIDTHS, half_life_images=64)
    train(single, of_one, range(HALF))
    target, moved = sharded()
    target.load_state_dict(target.state_dict() | _buffers(single))
    moved.load_state_dict(of_one.state_dict())
    same(moved, alone(HALF))


def _buffers(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_buffers())


def fsdp2_mistakes(folder: Path) -> None:
    module = made()
    early = PowerFunctionEMA(module, WIDTHS)
    fully_shard(module)
    with pytest.raises(EmaError, match="was sharded after its average was made; make averages after fully_shard"):
        early.update(64)
    ema = PowerFunctionEMA(module, WIDTHS)
    with torch.no_grad():
        module(torch.ones(2, 4, dtype=torch.float64))
    with pytest.raises(EmaError, match=r"is not sharded now, .* call reshard\(\) on the FSDP module before update"):
        ema.update(64)
    module.reshard()  # type: ignore[operator]
    ema.update(64)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def _process(rank: int, port: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=PROCESSES)
    try:
        for check in (under_ddp, under_fsdp2, fsdp2_mistakes):
            check(folder)
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_averages_of_two_processes_are_those_of_one(tmp_path: Path) -> None:
    mp.spawn(_process, (free_port(), tmp_path), nprocs=PROCESSES)  # type: ignore[no-untyped-call]
