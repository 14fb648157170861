"""Compute features in batches of one size, so that the features of a picture do not depend on its neighbours."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class FixedBatches:
    """A network that is called with exactly `size` pictures on `device`; short batches are padded with zeros.

    Kernels are chosen by the shape of a batch and round differently. With one shape, the features of a picture are the
    same bits whatever is computed with it and however pictures are divided into calls. Within a batch, the position
    must not matter either: tests check that for each network on the CPU.
    """

    def __init__(self, network: Callable[[Tensor], Tensor], size: int, device: torch.device | str = "cpu") -> None:
        self._network, self._size, self._device = network, size, torch.device(device)

    @torch.inference_mode()
    def __call__(self, pictures: Tensor) -> Tensor:
        """[n, C, H, W] -> float32 [n, num_features] on the CPU."""
        if not len(pictures):
            raise ValueError("no pictures were given, so the number of features is not known")
        found = []
        for part in torch.split(pictures, self._size):
            padded = torch.zeros((self._size, *part.shape[1:]), dtype=part.dtype, device=self._device)
            padded[: len(part)] = part
            found.append(self._network(padded)[: len(part)].float().cpu())
        return torch.cat(found)
