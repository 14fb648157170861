"""The group of workers that train one run together, as seen by one of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor


class WorkerGroupMismatch(RuntimeError):
    """The workers of a run have different values where all must have the same one."""


@dataclass(frozen=True)
class WorkerGroup:
    """This worker's rank among `world_size` workers. With one worker every operation is the identity.

    Several workers need an initialised default process group (gloo on CPUs, NCCL on GPUs).
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this is the worker that writes the run's rows, snapshots, checkpoints and metrics."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace `tensor` by its sum over all workers. The order of summation is the same in every call."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def broadcast_from_first(self, value: int) -> int:
        """The first worker's `value`, on every worker."""
        if self.world_size == 1:
            return value
        received = torch.tensor([value], device=self.device)
        dist.broadcast(received, src=0)
        return int(received.item())

    def minimum(self, value: int) -> int:
        """The smallest `value` of all workers, on every worker."""
        if self.world_size == 1:
            return value
        smallest = torch.tensor([value], device=self.device)
        dist.all_reduce(smallest, op=dist.ReduceOp.MIN)
        return int(smallest.item())

    def broadcast_bytes_from_first(self, data: bytes) -> bytes:
        """The first worker's `data`, on every worker. The others' own `data` is ignored."""
        if self.world_size == 1:
            return data
        size = self.broadcast_from_first(len(data))
        tensor = torch.zeros(size, dtype=torch.uint8)
        if self.is_first:
            tensor = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        return self.broadcast_tensor_(tensor).numpy().tobytes()

    def broadcast_tensor_(self, tensor: Tensor) -> Tensor:
        """Replace `tensor`, of any device and memory format, by that of the first worker."""
        if self.world_size > 1:
            # Backends take dense tensors of the group's own device only.
            sent = tensor.to(self.device).contiguous()
            dist.broadcast(sent, src=0)
            if sent is not tensor:
                tensor.copy_(sent)
        return tensor

    def check_same(self, value: int, what: str) -> None:
        """Raises WorkerGroupMismatch on every worker unless all have the same `value`; `what` names it."""
        if self.world_size == 1:
            return
        extremes = torch.tensor([value, -value], device=self.device)
        dist.all_reduce(extremes, op=dist.ReduceOp.MAX)
        highest, lowest = int(extremes[0]), -int(extremes[1])
        if highest != lowest:
            raise WorkerGroupMismatch(
                f"the workers see {what} from {lowest} to {highest}; they must start from the same one"
            )
