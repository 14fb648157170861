"""How much work it is to draw pictures, from the request and the network alone. Torch-free, for the API."""

from __future__ import annotations

from phema.shared.edm2.networks.config import NetworkConfig
from phema.shared.edm2.networks.costs import costs
from phema.shared.recipes.sample_request import SampleRequest


def drawing_gflops(request: SampleRequest, network: NetworkConfig, guide: NetworkConfig | None) -> float:
    """10^9 flops of all evaluations of the network and its guide. Steps outside a guidance interval count as guided."""
    each = costs(network).gflops + (0.0 if guide is None else costs(guide).gflops)
    # Heun's method evaluates the network twice per step, except in the last one.
    return len(request.seeds) * (2 * request.num_steps - 1) * each
