"""Switch off single optimisations of `phema.shared.edm2` for measurements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from phema.shared.edm2.networks import layers


def _einsum_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = torch.einsum("nhqc,nhkc->nhqk", q, k / q.shape[-1] ** 0.5).softmax(dim=-1)
    return torch.einsum("nhqk,nhkc->nhqc", weights, v)


def _vector_norm(x: Tensor, dims: list[int]) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, dim=dims, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float))
    return norm


def _contiguous(self: layers.MPConv, dtype: torch.dtype, gain: Any) -> Tensor:
    assert self._frozen is not None
    if dtype not in self._frozen:
        self._frozen[dtype] = self._normalized(dtype, gain).detach()
    return self._frozen[dtype]


def _each_time(self: layers.MPConv, dtype: torch.dtype, gain: Any) -> Tensor:
    return self._normalized(dtype, gain)


@contextmanager
def _layers_as(**replaced: Any) -> Iterator[None]:
    with patch.multiple(layers.MPConv, **replaced):
        yield


IN_NETWORK: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "scaled-dot-product attention": lambda: patch.object(F, "scaled_dot_product_attention", _einsum_attention),
    "norms by sums of squares": lambda: patch.object(layers, "_norm", _vector_norm),
}
"""Switches that cost training and sampling alike."""

IN_SAMPLING: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "weights normalised once": lambda: _layers_as(_effective_weight=_each_time),
    "channels last": lambda: _layers_as(_effective_weight=_contiguous),
}

NOTHING: dict[str, Callable[[], AbstractContextManager[Any]]] = {"": nullcontext}
