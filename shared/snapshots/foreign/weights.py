"""Converts the tensors of foreign files to those of phema's snapshots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from phema.shared.edm2.networks.building import build_denoiser
from phema.shared.edm2.networks.config import NetworkConfig
from phema.shared.snapshots.files.header import StoredDtype
from phema.shared.snapshots.foreign.errors import ForeignFileRefused
from phema.shared.snapshots.foreign.published_pickles import PublishedNetwork, read_published
from phema.shared.snapshots.foreign.state_dicts import read_state_dict
from phema.shared.snapshots.foreign.tensor_storages import read_tensor


@dataclass(frozen=True)
class ForeignWeights:
    """The content of one foreign file: everything a snapshot needs except its time and profile."""

    tensors: Mapping[str, Tensor]
    """By phema's names, on the CPU, contiguous. Every value is exactly that of the file."""
    buffers: tuple[str, ...]
    """Names of tensors that are not averages."""
    network: NetworkConfig | None
    """The architecture; None if the tensors do not belong to one of phema's networks."""

    @property
    def dtype(self) -> StoredDtype:
        """Dtype in which the averages are stored: float16 or bfloat16 if all of them have it, else float32."""
        dtypes = {t.dtype for name, t in self.tensors.items() if t.is_floating_point() and name not in self.buffers}
        if dtypes == {torch.float16}:
            return "float16"
        return "bfloat16" if dtypes == {torch.bfloat16} else "float32"


def published_weights(path: Path) -> ForeignWeights:
    """The EMA network of a published pickle, as the state dict of `build_denoiser(network)`.

    Weights and gains keep the file's dtype (float16). Fourier frequencies and phases become float32, without rounding.
    Raises ForeignFileRefused unless names and shapes match the network that the file describes.
    """
    return convert_published(read_published(path), str(path))


def state_dict_weights(
    path: Path, *, key: str | None = None, network: NetworkConfig | None = None, buffers: Sequence[str] = ()
) -> ForeignWeights:
    """The tensors of a state dict. They must match `network` exactly if one is given.

    Not averages are: tensors whose name matches one of the shell patterns in `buffers`, and the Fourier frequencies of
    `network`. Raises ForeignFileRefused, or OSError.
    """
    tensors = read_state_dict(path, key)
    copied = {name for name in tensors if any(fnmatchcase(name, pattern) for pattern in buffers)}
    if network is not None:
        shapes, own = network_shapes(network)
        check_shapes({name: tuple(tensor.shape) for name, tensor in tensors.items()}, shapes, str(path))
        copied.update(own)
    check_finite({name: tensor for name, tensor in tensors.items() if name not in copied}, str(path))
    return ForeignWeights(tensors, tuple(name for name in tensors if name in copied), network)


def convert_published(found: PublishedNetwork, name: str) -> ForeignWeights:
    """Like `published_weights`, for a file that was parsed already. `name` is what error messages call it."""
    shapes, buffers = network_shapes(found.config)
    check_shapes({key: tensor.shape for key, tensor in found.tensors.items()}, shapes, name)
    if len({id(tensor.storage.payload) for tensor in found.tensors.values()}) < len(shapes):
        # One storage under many names could take many times the size of the file in memory.
        raise ForeignFileRefused(name, "two of its tensors share one storage")
    tensors = {key: read_tensor(found.tensors[key], name) for key in shapes}
    check_finite(tensors, name)
    return ForeignWeights(
        {key: tensor.float() if key in buffers else tensor for key, tensor in tensors.items()}, buffers, found.config
    )


@lru_cache(maxsize=4)
def network_shapes(config: NetworkConfig) -> tuple[Mapping[str, tuple[int, ...]], tuple[str, ...]]:
    """Shapes of all tensors of a network by name, and the names of its buffers. Allocates no tensor memory."""
    with torch.device("meta"):
        denoiser = build_denoiser(config)
    shapes = {key: tuple(tensor.shape) for key, tensor in denoiser.state_dict().items()}
    return shapes, tuple(key for key, _ in denoiser.named_buffers())


def check_shapes(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], name: str) -> None:
    """Raises ForeignFileRefused that names the first tensor that is missing, unknown or has another shape."""
    for key in sorted(wanted.keys() | found.keys()):
        have, want = found.get(key), wanted.get(key)
        if have != want:
            is_there = f"has the shape {have}" if have is not None else "is missing"
            should_be = f"the shape {want}" if want is not None else "no such tensor"
            raise ForeignFileRefused(name, f"its tensor {key[:200]!r} {is_there}; its network has {should_be}")


def check_finite(tensors: Mapping[str, Tensor], name: str) -> None:
    """Raises ForeignFileRefused for NaN and infinity, which would make every reconstruction useless."""
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ForeignFileRefused(name, f"its tensor {key[:200]!r} holds values that are not finite")
