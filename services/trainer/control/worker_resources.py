"""The CPUs and GPUs that a run's workers take from the Ray cluster, and why a run cannot have them."""

from __future__ import annotations

from phema.services.trainer.attempt import TrainingAttempt
from phema.services.trainer.training.run_checks import UnsupportedPrecision, check_precision
from phema.shared.settings import Settings


class CannotTrain(ValueError):
    """The run cannot be trained on this cluster as configured; the message is one sentence."""

    def __init__(self, sentence: str, *, retry: bool) -> None:
        super().__init__(sentence)
        self.retry = retry
        """Whether a later attempt may succeed."""


def worker_resources(
    attempt: TrainingAttempt, settings: Settings, cluster: dict[str, float]
) -> tuple[dict[str, float], bool]:
    """(resources of one worker by Ray's names, whether that includes a GPU). `cluster` is the whole cluster's.

    An autoscaler adds nodes while workers wait, so the maxima in `settings` count as present. Raises CannotTrain when
    the cluster is too small even so, or when the run's precision needs GPUs and the cluster has too few.
    """
    config = attempt.config
    most = {
        "CPU": max(cluster.get("CPU", 0.0), settings.cluster_max_cpus),
        "GPU": max(cluster.get("GPU", 0.0), settings.cluster_max_gpus),
    }
    use_gpu = config.device == "cuda" or (config.device == "auto" and most["GPU"] >= config.num_workers)
    resources = {"CPU": settings.training_cpus_per_worker, **({"GPU": 1.0} if use_gpu else {})}
    try:
        check_precision(config, "cuda" if use_gpu else "cpu")
    except UnsupportedPrecision as error:
        raise CannotTrain(str(error), retry=False) from error
    for kind, each in resources.items():
        if each * config.num_workers > most[kind]:
            raise CannotTrain(
                f"num_workers {config.num_workers} needs {each * config.num_workers:g} {kind}s, "
                f"but the cluster has {most[kind]:g}",
                retry=True,
            )
    return resources, use_gpu


def not_placed(
    num_workers: int, resources: dict[str, float], settings: Settings, cluster: dict[str, float], free: dict[str, float]
) -> str:
    """The sentence for workers that found no room in a cluster that is large enough."""
    each = " and ".join(f"{amount:g} {kind}" for kind, amount in resources.items())
    left = ", ".join(f"{free.get(kind, 0.0):g} of {cluster.get(kind, 0.0):g} {kind}s" for kind in resources)
    return (
        f"num_workers {num_workers} found no room on the cluster within {settings.training_room_seconds:g} s: "
        f"each worker takes {each} of one node, and {left} are free; "
        "other trainings and the actors of phema workers (PHEMA_ACTOR_CPUS, PHEMA_ACTOR_GPUS) hold the rest"
    )
