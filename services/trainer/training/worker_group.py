"""The workers that train one run together, as seen by one of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor


class WorkerGroupMismatch(RuntimeError):
    """The workers do not agree on where the run stands."""


@dataclass(frozen=True)
class WorkerGroup:
    """Place of this worker among `world_size`; alone, every operation is the identity.

    More than one needs an initialised default process group (gloo on CPUs, nccl on GPUs).
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this worker writes: rows, snapshots, checkpoints and metrics come from one alone."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace `tensor` by its sum over all workers, in the same order of summation each time."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def broadcast_from_first(self, value: int) -> int:
        """The first worker's `value`, on every worker."""
        if self.world_size == 1:
            return value
        told = torch.tensor([value], device=self.device)
        dist.broadcast(told, src=0)
        return int(told.item())

    def check_same(self, value: int, what: str) -> None:
        """Raises GroupError on every worker unless all have the same `value`."""
        if self.world_size == 1:
            return
        extremes = torch.tensor([value, -value], device=self.device)
        dist.all_reduce(extremes, op=dist.ReduceOp.MAX)
        highest, lowest = int(extremes[0]), -int(extremes[1])
        if highest != lowest:
            raise WorkerGroupMismatch(
                f"the workers see {what} from {lowest} to {highest}; they must start from the same one"
            )
