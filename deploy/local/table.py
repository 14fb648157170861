"""All differences between docker-compose.yml's containers and processes of this machine, by service.

A service, field, variable or address of docker-compose.yml that is not listed here is refused, so that the two files
cannot drift apart.
"""

from __future__ import annotations

LOOPBACK = "127.0.0.1"

OURS = ("volumes", "prepare", "ray-head", "ray-worker", "api", "trainer", "phema-worker", "doctor")
"""Services that run their own command."""
REPLACED = ("postgres", "minio", "prometheus", "grafana")
"""Services with an image of another project; `plan` replaces them with programs of this machine."""
LEFT_OUT = ("postgres-exporter",)
"""Services with an image of another project that no program of this machine replaces."""

ADDRESSES = {"ray-head": "127.0.0.2", "ray-worker": "127.0.0.3", "phema-worker": "127.0.0.4"}
"""Ray identifies nodes by their addresses, and replaces 127.0.0.1 by the network card's; others use LOOPBACK."""

PORTS = {
    "postgres": (5432,),
    "minio": (9000, 9001),
    "ray-head": (6379, 8265, 52365, 8080),
    "ray-worker": (52365, 8080),
    "phema-worker": (52365, 8080),
    "api": (8400,),
    "prometheus": (9090,),
    "grafana": (3000,),
}
"""Ports of containers. Each is replaced by a free port of this machine, in addresses, in flags `…port=` and in
PORT_VARIABLES."""

PORT_VARIABLES = ("PHEMA_API_PORT",)
CHANGED = {
    "PHEMA_API_HOST": LOOPBACK,
    # Instead of the container's own address, which only its network reaches.
    "PHEMA_METRICS_HOST": LOOPBACK,
}
"""Variables with another value."""
ADDRESS_VARIABLES = (
    "PHEMA_DATABASE_URL",
    "PHEMA_S3_ENDPOINT_URL",
    "PHEMA_S3_PUBLIC_ENDPOINT_URL",
    "PHEMA_RAY_ADDRESS",
    "PHEMA_RAY_DASHBOARD_URL",
    "PHEMA_URL",
)
KEPT = (
    *("PHEMA_STORE_URL", "PHEMA_S3_REGION", "PHEMA_S3_ACCESS_KEY_ID", "PHEMA_S3_SECRET_ACCESS_KEY"),
    *("PHEMA_API_TOKEN", "PHEMA_LOG_LEVEL", "PHEMA_MAX_RUNNING_TRAININGS", "PHEMA_WORKER_ACTORS"),
    *("PHEMA_ACTORS_WHILE_TRAINING", "PHEMA_CHECKPOINTS_KEPT", "PHEMA_TRAINING_OUTAGE_SECONDS"),
    "PHEMA_TRAINING_CPUS_PER_WORKER",
    *("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION"),
    *("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USAGE_STATS_ENABLED", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"),
    *("RAY_raylet_start_wait_time_s", "RAY_DISABLE_WORKER_LOG_PREFIX", "RAY_DEDUP_LOGS"),
    *("POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD", "MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD", "HOME"),
    "MINIO_PROMETHEUS_AUTH_TYPE",
    *("GF_SECURITY_ADMIN_USER", "GF_SECURITY_ADMIN_PASSWORD", "GF_ANALYTICS_REPORTING_ENABLED"),
    *("GF_ANALYTICS_CHECK_FOR_UPDATES", "GF_USERS_ALLOW_SIGN_UP"),
)
"""Variables whose value is used unchanged."""

RAY_FLAGS = {
    "--dashboard-host": ADDRESSES["ray-head"],
    # All three nodes share the memory of one machine.
    "--object-store-memory": "80000000",
}
"""Flags of `ray start` with another value."""
RAY_PORTS = ("object-manager", "node-manager", "dashboard-agent-grpc", "runtime-env-agent")
"""Added flags `--…-port`, each with a free port: Ray would choose the same ports on every node of this machine."""
RAY_HEAD_PORTS = ("ray-client-server",)
RAY_MORE = ("--min-worker-port=0", "--max-worker-port=0")
"""Added flags: Ray's workers listen on any free port."""

FIELDS = (
    *("command", "entrypoint", "environment", "ports", "depends_on", "healthcheck", "profiles", "restart"),
    *("stop_grace_period", "volumes"),
)
"""Fields of a service that are used for processes too."""
CONTAINER_FIELDS = (
    *("image", "build", "user", "init", "cap_drop", "security_opt", "logging", "read_only", "tmpfs", "shm_size"),
    *("deploy", "network_mode"),
)
"""Fields that only containers have: privileges, limits and file systems."""

MACHINE = ("LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
"""Variables that processes inherit from the caller; they inherit no others."""
IMAGE = {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
"""Variables of the Dockerfile, without those that name folders, since each process has folders of its own, and without
those of the driver of GPUs."""
