"""The environment variables of a training attempt: the trainer's settings, without secrets.

Ray shows a job's environment variables on its dashboard and in its API. The trainer therefore passes only settings that
are not secret. The S3 keys, and the catalog's URL if it holds a password, must be in the environment of `ray start`.
The job's command names the secrets it expects. An attempt refuses to start without them, because it would otherwise
use an empty catalog.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

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
    "training_outage_seconds",
    "training_nonfinite_steps",
    "training_stop_seconds",
    "training_cpus_per_worker",
    "cluster_max_cpus",
    "cluster_max_gpus",
    "training_room_seconds",
    "checkpoints_kept",
    "log_level",
)
"""Names of the settings that an attempt reads."""

_CREDENTIALS = ("s3_access_key_id", "s3_secret_access_key")
"""Never passed: the id names an account, and is of no use without the secret."""

RAY_VARIABLES = {
    # Lines of workers reach the log of the attempt as they are, without a prefix and also when they are repeated.
    "RAY_DISABLE_WORKER_LOG_PREFIX": "1",
    "RAY_DEDUP_LOGS": "0",
    # Seconds between two checks for dead workers; Ray Train's default is 2.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
}


class MissingSecret(RuntimeError):
    """A secret that the attempt needs is not in its environment."""


def job_environment(settings: Settings) -> tuple[dict[str, str], tuple[str, ...]]:
    """(variables to pass with the job, names of the secrets that the cluster's environment must hold)."""
    values: dict[str, object] = {name: getattr(settings, name) for name in FIELDS}
    # Absolute, because an attempt runs in another working directory.
    values["state_dir"] = Path(settings.state_dir).resolve()
    values["database_url"] = settings.catalog_url
    values["store_url"] = settings.object_store_url
    passed, inherited = dict(RAY_VARIABLES), []
    # Seconds between SIGTERM and SIGKILL when Ray stops a job; Ray's default is 3.
    passed["RAY_JOB_STOP_WAIT_TIME_S"] = str(math.ceil(settings.training_stop_seconds))
    for name, value in values.items():
        if value is None:
            continue
        variable = f"PHEMA_{name.upper()}"
        if name in _CREDENTIALS or (name == "database_url" and _holds_password(str(value))):
            inherited.append(variable)
        else:
            passed[variable] = str(value)
    return passed, tuple(inherited)


def check_secrets(names: tuple[str, ...], environment: Mapping[str, str]) -> None:
    """Raises MissingSecret unless `environment` holds a value for every name."""
    missing = [name for name in names if not environment.get(name)]
    if missing:
        raise MissingSecret(
            f"{missing[0]} is a secret, which is not passed through Ray's job metadata: "
            f"set it in the environment of `ray start` on every node"
        )


def _holds_password(url: str) -> bool:
    parsed = make_url(url)
    return parsed.password is not None or "password" in parsed.query
