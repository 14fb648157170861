"""All gradients of a module in one flat buffer, so that they are reduced and cleaned in one operation each.

DistributedDataParallel would overlap the reduction with the backward pass, but it lays its buckets out anew after
the first iteration, and a ring's order of summation follows the layout: a resumed run would differ from an
uninterrupted one in the last bits. One buffer in the order of registration is the same in every iteration.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from phema.services.trainer.training.worker_group import WorkerGroup

CHUNK = 2**26
"""Elements looked at together: the largest networks have billions, and comparing them all at once takes as many bytes
several times over."""


class FlatGradients:
    """Makes every parameter's `.grad` a view of `flat`, into which backward passes accumulate."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        owned = list(parameters)
        self.flat = torch.zeros(sum(p.numel() for p in owned), device=owned[0].device, dtype=owned[0].dtype)
        start = 0
        for parameter in owned:
            # The fused optimizer wants gradients to lie as their parameters do, channels last or not.
            parameter.grad = self.flat.as_strided(parameter.shape, parameter.stride(), start)
            start += parameter.numel()

    def zero_(self) -> None:
        self.flat.zero_()

    def reduce_(self, group: WorkerGroup) -> None:
        """Sum over the workers; each has divided its own part by the size of the whole batch."""
        group.sum_(self.flat)

    def drop_nonfinite_(self) -> tuple[Tensor, Tensor]:
        """Set NaN and infinite elements to 0, as the paper does before Adam.

        Returns their number (int64) and the Euclidean norm of what is left, both on the device.
        """
        # A finite norm has finite elements alone, and costs a thirtieth of looking at each. A GPU would have to be
        # waited for, and looks at each in no time.
        if self.flat.device.type == "cpu" and (norm := torch.linalg.vector_norm(self.flat)).isfinite():
            return torch.zeros((), dtype=torch.int64), norm
        counts: list[Tensor] = []
        for part in torch.split(self.flat, CHUNK):
            counts.append(part.numel() - torch.isfinite(part).sum())
            torch.nan_to_num_(part, nan=0.0, posinf=0.0, neginf=0.0)
        return sum(counts[1:], counts[0]), torch.linalg.vector_norm(self.flat)
