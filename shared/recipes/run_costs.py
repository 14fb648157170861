"""What a run costs, known from its configuration before it starts. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from phema.shared.edm2.networks.costs import costs
from phema.shared.edm2.networks.memory import training_bytes
from phema.shared.recipes.run_config import RunConfig


@dataclass(frozen=True)
class RunCosts:
    """Size of the network, memory of one worker, and what the run stores."""

    num_parameters: int
    gflops: float
    """Cost of one evaluation of the network on one picture, in 10^9 flops."""
    training_zettaflops: float
    worker_bytes: int
    """Memory of one worker in bytes, without that of PyTorch itself."""
    num_snapshots: int
    """Snapshots that the run stores: one per time and average."""
    snapshot_bytes: int
    """Bytes of all snapshots, unless a retention policy removes some."""
    checkpoint_bytes: int
    """Bytes of one checkpoint."""


def run_costs(config: RunConfig) -> RunCosts:
    """Costs of a run. Snapshots hold the network without its uncertainty head's few numbers, which are counted."""
    network = costs(config.network)
    averages = len(config.ema_sigma_rels) + (config.ema_half_life_images is not None)
    count = network.num_parameters
    snapshots = averages * -(-config.total_images // config.snapshot_every)
    return RunCosts(
        num_parameters=count,
        gflops=network.gflops,
        training_zettaflops=network.training_zettaflops(config.total_images),
        worker_bytes=training_bytes(
            config.network,
            count,
            microbatch=config.microbatch,
            averages=averages,
            half_precision=config.precision != "float32",
        ),
        num_snapshots=snapshots,
        snapshot_bytes=snapshots * count * (2 if config.snapshot_dtype == "float16" else 4),
        checkpoint_bytes=4 * count * (3 + averages),
    )
