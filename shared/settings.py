"""Every setting of every phema process, read from `PHEMA_*` environment variables and checked at start-up."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Settings(BaseSettings):
    """The settings of all services. An empty environment variable counts as unset."""

    model_config = SettingsConfigDict(env_prefix="PHEMA_", extra="ignore", frozen=True, env_ignore_empty=True)

    state_dir: Path = Path(".phema")
    """Folder of the embedded defaults: catalog, store, logs and the session of Ray."""
    database_url: str = ""
    """SQLAlchemy URL of the catalog. Empty: a SQLite file in `state_dir`."""
    store_url: str = ""
    """Object store, `file:///path` or `s3://bucket/prefix`. Empty: a folder in `state_dir`."""
    s3_endpoint_url: str | None = None
    """URL of the S3 server. Unset: AWS."""
    s3_public_endpoint_url: str | None = None
    """URL at which users reach the S3 server, for presigned URLs. Unset: `s3_endpoint_url`."""
    s3_region: str = "us-east-1"
    """Region for which requests are signed."""
    s3_access_key_id: str | None = None
    """Access key. Unset: boto3's own credential chain."""
    s3_secret_access_key: SecretStr | None = None
    """Secret key that belongs to `s3_access_key_id`."""
    api_host: str = "127.0.0.1"
    """Address on which the API listens."""
    api_port: Annotated[int, Field(ge=0, le=65535)] = 8400
    """Port on which the API listens. 0 takes a free port."""
    api_token: SecretStr | None = None
    """Bearer token that every request must carry. Required when `api_host` is not a loopback address."""
    api_allowed_hosts: str = ""
    """Host names, separated by commas, under which an API without `api_token` may be reached besides loopback ones."""
    ray_address: str = "auto"
    """Address of the Ray cluster (GCS) that trainers and workers connect to."""
    ray_dashboard_url: str = "http://127.0.0.1:8265"
    """URL of the Ray Jobs API, through which the trainer submits attempts."""
    metrics_host: str = "127.0.0.1"
    """Address on which trainers, trainings and workers serve Prometheus metrics. `auto`: the machine's own address."""
    poll_seconds: Annotated[float, Field(gt=0)] = 0.5
    """Interval at which services look for work. Idle ones are woken, and look 10 times less often by themselves."""
    heartbeat_seconds: Annotated[float, Field(gt=0)] = 2.0
    """Interval of the heartbeats that extend the lease of a running job."""
    lease_seconds: Annotated[float, Field(gt=0)] = 20.0
    """A worker that sends no heartbeat for this time loses its job, and another attempt starts."""
    training_outage_seconds: Annotated[float, Field(ge=0)] = 14400.0
    """Time for which a training goes on while the catalog or the store cannot be reached. Then its attempt ends."""
    training_nonfinite_steps: Annotated[int, Field(ge=1)] = 100
    """Steps in a row without finite gradients after which a training fails, because it no longer learns."""
    training_stop_seconds: Annotated[float, Field(gt=0)] = 30.0
    """Time that a training has to store a checkpoint after SIGTERM. Then Ray kills it."""
    train_start_seconds: Annotated[float, Field(gt=0)] = 120.0
    """Time that a submitted training attempt has until its first heartbeat."""
    silent_after_seconds: Annotated[float, Field(gt=0)] = 600.0
    """An external run counts as silent after 3 of its usual times between snapshots without a word, but not earlier."""
    max_attempts: Annotated[int, Field(ge=1)] = 5
    """Number of attempts without progress after which a job fails."""
    checkpoints_kept: Annotated[int, Field(ge=1)] = 2
    """The latest checkpoints that a training run keeps; it deletes older ones, except pinned ones."""
    delete_grace_hours: Annotated[float, Field(ge=0, le=87_600)] = 24.0
    """Hours between a request to delete a run and its deletion, in which the run can be restored."""
    max_running_trainings: Annotated[int, Field(ge=1)] = 1
    """Training runs at a time; others wait in the queue. Those that the cluster cannot fit wait for room."""
    worker_actors: Annotated[int, Field(ge=1)] = 1
    """Largest number of Ray actors per phema worker. `phema up` takes one for each `actor_cpus` of the machine."""
    actors_while_training: Annotated[int, Field(ge=1)] | None = None
    """Actors per phema worker that work while a training is queued or running. Unset: all. `phema up` takes 1."""
    actor_cpus: Annotated[float, Field(gt=0)] = 1.0
    """CPUs of one phema worker actor, and its torch threads. A worker holds those of one actor as long as it runs."""
    actor_gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs of one phema worker actor, held as its CPUs are. Trainings take whole GPUs."""
    training_cpus_per_worker: Annotated[float, Field(gt=0)] = 1.0
    """CPUs of one training worker, and its torch threads."""
    cluster_max_cpus: Annotated[float, Field(ge=0)] = 0.0
    """CPUs to which an autoscaler may grow the cluster. 0: the CPUs it has. Trainings that need more wait."""
    cluster_max_gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs to which an autoscaler may grow the cluster. 0: the GPUs it has. A run with device `auto` waits for them."""
    training_room_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Several workers that find no room for this time start to wait anew. A wait for resources is no attempt."""
    reconstruct_memory_bytes: Annotated[int, Field(ge=2**25)] = 2**30
    """Upper bound on the buffers of one reconstruction, for any number of snapshots and profiles."""
    preview_cache_bytes: Annotated[int, Field(ge=0)] = 2**30
    """Memory of an actor for the snapshots and basis vectors of the latest previews. 0 reads them for each preview."""
    parts_kept_days: Annotated[float, Field(gt=0)] = 30.0
    """Days for which the features that parts of evaluations stored are kept, so that more pictures continue them."""
    extractor_weights: Path | None = None
    """Folder of weight files of feature extractors. Unset: they come from the store, or are downloaded."""
    download_url_seconds: Annotated[int, Field(ge=1, le=604800)] = 3600
    """Time for which a presigned URL is valid."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest severity that the services log."""

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
    def allowed_hosts(self) -> tuple[str, ...]:
        """The names in `api_allowed_hosts`."""
        return tuple(name.strip() for name in self.api_allowed_hosts.split(",") if name.strip())

    @property
    def target_silence_seconds(self) -> float:
        """A process that has not renewed its metrics target for this time counts as gone: three leases."""
        return 3 * self.lease_seconds

    @property
    def object_store_url(self) -> str:
        return self.store_url or f"file://{self.state_dir.resolve() / 'store'}"
