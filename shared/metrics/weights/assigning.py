"""Put published weights into a network that was built without any."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from phema.shared.metrics.errors import ScoringError
from phema.shared.metrics.weights.published import LoadedWeights


def assign(network: nn.Module, tensors: dict[str, Tensor], weights: LoadedWeights, extractor: str) -> None:
    """Load `tensors` into a network on the meta device. Raises ScoringError unless names and shapes are the network's.

    A counter of training batches, which old files lack, is not needed.
    """
    wanted = network.state_dict()
    missing = sorted(name for name in wanted if name not in tensors and not name.endswith("num_batches_tracked"))
    strange = sorted(name for name in tensors if name not in wanted)
    shapes = sorted(name for name, tensor in tensors.items() if name in wanted and tensor.shape != wanted[name].shape)
    problems = [
        f"{len(names)} {what} such as {names[0]}"
        for names, what in ((missing, "missing tensors"), (strange, "unknown tensors"), (shapes, "other shapes"))
        if names
    ]
    if problems:
        raise ScoringError(
            f"weights {weights.where} do not fit extractor {extractor}: {'; '.join(problems)}", "weights"
        )
    counters = {name: torch.zeros((), dtype=torch.int64) for name in wanted if name.endswith("num_batches_tracked")}
    network.load_state_dict(counters | {name: tensor.float() for name, tensor in tensors.items()}, assign=True)
