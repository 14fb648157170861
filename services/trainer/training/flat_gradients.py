"""All gradients of a network in one flat buffer, which is summed over workers and cleaned in one operation each.

DistributedDataParallel would overlap the sum with the backward pass. But it rearranges its buckets after the first
iteration, and the order of summation depends on the buckets, so a resumed run would differ from an uninterrupted one
in the last bits. One buffer in the order of the parameters is the same in every iteration.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from phema.services.trainer.training.worker_group import WorkerGroup

CHUNK = 2**26
"""Elements checked at once. The largest networks have billions, and each check needs several temporary copies."""


class FlatGradients:
    """Makes every parameter's `.grad` a view of the buffer `flat`, into which backward passes accumulate."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        owned = list(parameters)
        self.flat = torch.zeros(sum(p.numel() for p in owned), device=owned[0].device, dtype=owned[0].dtype)
        start = 0
        for parameter in owned:
            # The fused optimizer requires gradients with the strides of their parameters, channels last or not.
            parameter.grad = self.flat.as_strided(parameter.shape, parameter.stride(), start)
            start += parameter.numel()

    def zero_(self) -> None:
        self.flat.zero_()

    def reduce_(self, group: WorkerGroup) -> None:
        """Sum over the workers. Each worker's loss must already be divided by the size of the whole batch."""
        group.sum_(self.flat)

    def drop_nonfinite_(self) -> tuple[Tensor, Tensor]:
        """Set NaN and infinite elements to 0, as the paper does before Adam.

        Returns the number of those elements (int64) and the Euclidean norm after the change, both on the device.
        """
        # A finite norm means that all elements are finite, and on a CPU it takes a thirtieth of the time of checking
        # each one. Reading the norm would make the loop wait for a GPU, which checks every element quickly anyway.
        if self.flat.device.type == "cpu" and (norm := torch.linalg.vector_norm(self.flat)).isfinite():
            return torch.zeros((), dtype=torch.int64), norm
        counts: list[Tensor] = []
        for part in torch.split(self.flat, CHUNK):
            counts.append(part.numel() - torch.isfinite(part).sum())
            torch.nan_to_num_(part, nan=0.0, posinf=0.0, neginf=0.0)
        return sum(counts[1:], counts[0]), torch.linalg.vector_norm(self.flat)
