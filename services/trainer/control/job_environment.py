"""How a training attempt learns the settings: what goes through Ray's job metadata, and what must not.

Ray shows a job's environment variables on its dashboard and in its API. So the trainer passes its own settings to an
attempt that way, but never a secret: the S3 secret, and the catalog's URL when it holds a password, are inherited from
the environment in which `ray start` ran. An attempt names those it expects and refuses to begin without them, rather
than train against an empty catalog.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import SecretStr
from sqlalchemy import make_url

from phema.shared.settings import Settings

FIELDS = (
    "state_dir",
    "database_url",
    "store_url",
    "s3_endpoint_url",
    "s3_region",
    "s3_access_key_id",
    "s3_secret_access_key",
    "metrics_host",
    "heartbeat_seconds",
    "lease_seconds",
    "training_cpus_per_worker",
    "cluster_max_cpus",
    "cluster_max_gpus",
    "training_room_seconds",
    "log_level",
)
"""The settings that training reads."""

RAY_TRAIN = {
    # Ray Train notices a dead worker at this interval (2 s by default).
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    # One process less per run: what a preempted node takes away is resumed from a checkpoint anyway.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


class MissingSecret(RuntimeError):
    """A secret that the attempt needs is not in the environment that the cluster gave it."""


def job_environment(settings: Settings) -> tuple[dict[str, str], tuple[str, ...]]:
    """(variables to pass with the job, names of secrets that the cluster's environment must hold)."""
    values: dict[str, object] = {name: getattr(settings, name) for name in FIELDS}
    # Where an attempt runs, the working directory is another.
    values["state_dir"] = Path(settings.state_dir).resolve()
    values["database_url"] = settings.catalog_url
    values["store_url"] = settings.object_store_url
    passed, inherited = dict(RAY_TRAIN), []
    for name, value in values.items():
        if value is None:
            continue
        variable = f"PHEMA_{name.upper()}"
        if isinstance(value, SecretStr) or (name == "database_url" and _holds_password(str(value))):
            inherited.append(variable)
        else:
            passed[variable] = str(value)
    return passed, tuple(inherited)


def check_secrets(names: tuple[str, ...], environment: Mapping[str, str]) -> None:
    """Raises MissingSecret unless every name has a value."""
    missing = [name for name in names if not environment.get(name)]
    if missing:
        raise MissingSecret(
            f"{missing[0]} is a secret, which is not passed through Ray's job metadata: "
            f"set it in the environment of `ray start` on every node"
        )


def _holds_password(url: str) -> bool:
    parsed = make_url(url)
    return parsed.password is not None or "password" in parsed.query
