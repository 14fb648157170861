"""Every setting of every phema process, read from `PHEMA_*` environment variables and checked at start-up."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Settings(BaseSettings):
    """One class for all services: what compose, Kubernetes and `phema up` set is what is declared here.

    An empty variable is as one that is not set.
    """

    model_config = SettingsConfigDict(env_prefix="PHEMA_", extra="ignore", frozen=True, env_ignore_empty=True)

    state_dir: Path = Path(".phema")
    """Folder of the embedded defaults: catalog, store, logs, Ray's session."""
    database_url: str = ""
    """SQLAlchemy URL of the catalog; empty is SQLite in `state_dir`."""
    store_url: str = ""
    """Object store, `file:///path` or `s3://bucket/prefix`; empty is a folder in `state_dir`."""
    s3_endpoint_url: str | None = None
    """S3 server; unset is AWS."""
    s3_public_endpoint_url: str | None = None
    """S3 server as users reach it, for presigned URLs; unset is `s3_endpoint_url`."""
    s3_region: str = "us-east-1"
    """Region that requests are signed for."""
    s3_access_key_id: str | None = None
    """Unset is boto3's own credential chain."""
    s3_secret_access_key: SecretStr | None = None
    """Secret of `s3_access_key_id`."""
    api_host: str = "127.0.0.1"
    """Address the API listens on."""
    api_port: Annotated[int, Field(ge=0, le=65535)] = 8400
    """Port of the API; 0 takes a free one."""
    api_token: SecretStr | None = None
    """Bearer token every request must carry; required when `api_host` is not loopback."""
    ray_address: str = "auto"
    """Ray cluster that trainers and workers connect to (GCS address)."""
    ray_dashboard_url: str = "http://127.0.0.1:8265"
    """Ray Jobs endpoint through which the trainer submits attempts."""
    metrics_host: str = "127.0.0.1"
    """Address on which trainers and workers serve Prometheus metrics and register; `auto` is each machine's own."""
    poll_seconds: Annotated[float, Field(gt=0)] = 0.5
    """How often services look for work."""
    heartbeat_seconds: Annotated[float, Field(gt=0)] = 2.0
    """How often whoever works on a job says that it is alive."""
    lease_seconds: Annotated[float, Field(gt=0)] = 20.0
    """A worker silent for so long has lost its job to the next."""
    train_start_seconds: Annotated[float, Field(gt=0)] = 120.0
    """Time a submitted attempt has for its first heartbeat."""
    max_attempts: Annotated[int, Field(ge=1)] = 5
    """Attempts without progress before a job fails."""
    max_running_trainings: Annotated[int, Field(ge=1)] = 1
    """Training runs at a time; the others wait in the queue. More than have room together fail for want of it."""
    worker_actors: Annotated[int, Field(ge=1)] = 1
    """Ray actors per phema worker."""
    actor_cpus: Annotated[float, Field(gt=0)] = 1.0
    """CPUs of one phema worker actor, held as long as its worker lives, and its torch threads."""
    actor_gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs of one phema worker actor, held as long as its worker lives; trainings take whole GPUs."""
    training_cpus_per_worker: Annotated[float, Field(gt=0)] = 1.0
    """CPUs of one training worker, and its torch threads."""
    cluster_max_cpus: Annotated[float, Field(ge=0)] = 0.0
    """CPUs that an autoscaler may give the cluster; 0 counts those it has. Trainings that need more are refused."""
    cluster_max_gpus: Annotated[float, Field(ge=0)] = 0.0
    """As `cluster_max_cpus`, of GPUs: a run with device `auto` waits for them."""
    training_room_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Time an attempt waits for room in the cluster before it fails; the next one waits again."""
    reconstruct_memory_bytes: Annotated[int, Field(ge=2**25)] = 2**30
    """Bound on the buffers of one reconstruction, whatever the number of snapshots and profiles."""
    download_url_seconds: Annotated[int, Field(ge=1, le=604800)] = 3600
    """Life of a presigned URL."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe line that the services log."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.lease_seconds < 3 * self.heartbeat_seconds:
            raise ValueError(
                f"lease_seconds {self.lease_seconds:g} must be at least 3 x heartbeat_seconds "
                f"({self.heartbeat_seconds:g}), or a single late heartbeat loses the job"
            )
        if self.api_host not in LOOPBACK and self.api_token is None:
            raise ValueError(f"api_host {self.api_host} is reachable by others: set api_token, or use 127.0.0.1")
        if self.store_url and not self.store_url.startswith(("file:///", "s3://")):
            raise ValueError(f"store_url {self.store_url!r} must start with file:/// or s3://")
        return self

    @property
    def catalog_url(self) -> str:
        return self.database_url or f"sqlite:///{self.state_dir.resolve() / 'catalog.db'}"

    @property
    def target_silence_seconds(self) -> float:
        """A process that announced its metrics and was not seen for three leases is gone."""
        return 3 * self.lease_seconds

    @property
    def object_store_url(self) -> str:
        return self.store_url or f"file://{self.state_dir.resolve() / 'store'}"
