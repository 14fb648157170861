"""The CPUs and GPUs that a run's workers take from the Ray cluster, and why a run cannot have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from phema.services.trainer.training.precision import UnsupportedPrecision, check_precision
from phema.shared.recipes.run_config import RunConfig
from phema.shared.settings import Settings

WAITING = "waiting for resources: "
"""How the message of a job begins that waits for CPUs or GPUs."""


class CannotTrain(ValueError):
    """The run cannot be trained as configured; the message is one sentence."""


class TooFewResources(ValueError):
    """The cluster is too small for the run now; the message is one sentence. A wait for it is no attempt."""


@dataclass(frozen=True)
class Placement:
    """What the workers of a run take from the cluster."""

    num_workers: int
    resources: dict[str, float]
    """Of one worker, by Ray's names."""

    @property
    def use_gpu(self) -> bool:
        return "GPU" in self.resources

    @property
    def device(self) -> str:
        """Torch's name for the device of a worker, which sees no GPUs but its own."""
        return "cuda:0" if self.use_gpu else "cpu"


def place_workers(config: RunConfig, settings: Settings, cluster: Mapping[str, float]) -> Placement:
    """The resources that the run's workers need. `cluster` holds those of the whole cluster.

    An autoscaler adds nodes while workers wait, so the maxima in `settings` count as present. Raises TooFewResources
    when the cluster is too small even so, and CannotTrain when the run's precision needs a GPU that it would not get.
    """
    most = {
        "CPU": max(cluster.get("CPU", 0.0), settings.cluster_max_cpus),
        "GPU": max(cluster.get("GPU", 0.0), settings.cluster_max_gpus),
    }
    use_gpu = config.device == "cuda" or (config.device == "auto" and most["GPU"] >= config.num_workers)
    resources = {"CPU": settings.training_cpus_per_worker, **({"GPU": 1.0} if use_gpu else {})}
    placement = Placement(config.num_workers, resources)
    try:
        check_precision(config, "cuda" if placement.use_gpu else "cpu")
    except UnsupportedPrecision as error:
        raise CannotTrain(str(error)) from error
    for kind, each in resources.items():
        if each * config.num_workers > most[kind]:
            raise TooFewResources(
                f"num_workers {config.num_workers} needs {each * config.num_workers:g} {kind}s, "
                f"but the cluster has {most[kind]:g}"
            )
    return placement


def no_room(
    placement: Placement, cluster: Mapping[str, float] | None = None, free: Mapping[str, float] | None = None
) -> str:
    """The sentence for workers that find no room in a cluster that is large enough; `free` is a part of `cluster`."""
    each = " and ".join(f"{amount:g} {kind}" for kind, amount in placement.resources.items())
    left = ""
    if cluster is not None and free is not None:
        numbers = (f"{free.get(kind, 0.0):g} of {cluster.get(kind, 0.0):g} {kind}s" for kind in placement.resources)
        left = f", and {', '.join(numbers)} are free"
    return (
        f"num_workers {placement.num_workers} finds no room on the cluster: each worker takes {each} of one node{left};"
        " other trainings and the actors of phema workers (PHEMA_ACTOR_CPUS, PHEMA_ACTOR_GPUS) hold the rest"
    )
