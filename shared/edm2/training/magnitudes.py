"""Magnitudes of weights and activations by side and resolution of the U-Net (Karras et al. 2024, Fig. 3, 15, A.6).

A bucket holds the convolutions and linear layers of all residual blocks on one side (encoder or decoder) at one output
resolution, including attention and conditioning. The input and output convolutions and the embedding network belong to
no block. The magnitude of a feature (output channel) is the root mean square of its elements. A bucket reports the
maximum and the mean over all its features, under keys such as "enc/8/max" and "dec/4/mean".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from phema.shared.edm2.networks.denoiser import Denoiser
from phema.shared.edm2.networks.topology import plan_unet


def weight_magnitudes(denoiser: Denoiser) -> dict[str, float]:
    """Key to magnitude of the raw weight tensors, each reshaped to features x fan-in."""
    features: dict[str, list[Tensor]] = defaultdict(list)
    for bucket, layer in _layers(denoiser):
        weight = layer.get_parameter("weight").detach()
        features[bucket].append(weight.flatten(1).float().square().mean(dim=1).sqrt())
    return _summary(features)


class ActivationMagnitudes:
    """Context manager that measures the outputs of every bucket's layers in all forward passes inside.

    The mean square of a feature is taken over all pictures and pixels seen. `magnitudes()` synchronises with the
    device.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self._layers = list(_layers(denoiser))
        self._sums: list[Tensor | None] = [None] * len(self._layers)
        self._counts = [0] * len(self._layers)
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        self._handles = [layer.register_forward_hook(self._hook(i)) for i, (_, layer) in enumerate(self._layers)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def magnitudes(self) -> dict[str, float]:
        """Key to magnitude; empty before the first forward pass."""
        features: dict[str, list[Tensor]] = defaultdict(list)
        for (bucket, _), total, count in zip(self._layers, self._sums, self._counts, strict=True):
            if total is not None:
                features[bucket].append((total / count).sqrt())
        return _summary(features)

    def _hook(self, index: int) -> Any:
        def add(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            per_feature = output.detach().transpose(0, 1).flatten(1)
            total = torch.linalg.vector_norm(per_feature, dim=1, dtype=torch.float32).square().double()
            previous = self._sums[index]
            self._sums[index] = total if previous is None else previous + total
            self._counts[index] += per_feature.shape[1]

        return add


def _layers(denoiser: Denoiser) -> Iterator[tuple[str, nn.Module]]:
    """("enc/8", layer) for each layer with a weight matrix or kernel inside a residual block."""
    topology = plan_unet(denoiser.config)
    for side, plans in (("enc", topology.encoder), ("dec", topology.decoder)):
        for plan in plans:
            for layer in denoiser.get_submodule(f"unet.{side}.{plan.name}").modules():
                weight = layer._parameters.get("weight")
                if weight is not None and weight.ndim >= 2:  # not the scales of normalisation layers
                    yield f"{side}/{plan.resolution}", layer


def _summary(features: dict[str, list[Tensor]]) -> dict[str, float]:
    summary: dict[str, float] = {}
    for bucket, tensors in features.items():
        values = torch.cat(tensors)
        summary[f"{bucket}/max"] = float(values.max())
        summary[f"{bucket}/mean"] = float(values.mean())
    return summary
