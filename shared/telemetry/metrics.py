"""The table of all Prometheus metrics of phema: name, kind, unit, labels, and which processes serve them.

`docs/metrics.md` contains the same table. The targets of the API's service discovery must have no label that a metric
has, because Prometheus would rename the metric's label to `exported_…`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]
Source = Literal["api", "trainer", "training", "worker"]
"""Kinds of processes: `trainer` is the reconciler, `training` the first worker of a run, `worker` a phema worker."""

SOURCES: tuple[Source, ...] = ("api", "trainer", "training", "worker")
HISTOGRAM_BUCKETS = (0.005, 0.02, 0.1, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0, 43200.0)
"""Upper bounds of every histogram's buckets, in seconds."""


@dataclass(frozen=True)
class Metric:
    """A metric. Names of counters end in `_total`; `unit` is the unit of the value, "1" if it has none."""

    name: str
    kind: Kind
    unit: str
    labels: tuple[str, ...]
    sources: tuple[Source, ...]
    help: str


# Training: one series per run, served by the run's first worker.
TRAINING_INFO = Metric(
    "phema_training_info", "gauge", "1", ("run_id", "name"), ("training",), "Always 1; its labels map run ids to names."
)
TRAINING_IMAGES = Metric(
    "phema_training_images",
    "gauge",
    "images",
    ("run_id",),
    ("training",),
    "Images the run has seen; served from before its first step.",
)
TRAINING_TOTAL_IMAGES = Metric(
    "phema_training_total_images", "gauge", "images", ("run_id",), ("training",), "Images after which the run ends."
)
TRAINING_SPEED = Metric(
    "phema_training_images_per_second",
    "gauge",
    "images/s",
    ("run_id",),
    ("training",),
    "Images per second over all workers, since the last status.",
)
TRAINING_LOSS = Metric(
    "phema_training_loss",
    "gauge",
    "1",
    ("run_id",),
    ("training",),
    "Uncertainty-weighted loss per element, averaged since the last status.",
)
TRAINING_DENOISING_LOSS = Metric(
    "phema_training_denoising_loss",
    "gauge",
    "1",
    ("run_id",),
    ("training",),
    "Plain weighted loss per element, averaged since the last status; 1 for a network whose output is 0.",
)
TRAINING_LEARNING_RATE = Metric(
    "phema_training_learning_rate", "gauge", "1", ("run_id",), ("training",), "Learning rate of the last step."
)
LOSS_BY_NOISE = Metric(
    "phema_training_loss_by_noise",
    "gauge",
    "1",
    ("run_id", "bin"),
    ("training",),
    "Plain weighted loss per element by bin of the noise level, averaged since the last status.",
)
GRADIENT_NORM = Metric(
    "phema_training_gradient_norm",
    "gauge",
    "1",
    ("run_id",),
    ("training",),
    "Euclidean norm of the gradient that Adam sees, averaged over the steps since the last status.",
)
DATA_WAIT_SHARE = Metric(
    "phema_training_data_wait_share",
    "gauge",
    "1",
    ("run_id",),
    ("training",),
    "Share of the first worker's time since the last status that its steps waited for pictures.",
)
STEP_SECONDS = Metric(
    "phema_training_step_seconds",
    "gauge",
    "s",
    ("run_id", "part"),
    ("training",),
    "Mean time per step of one part, since the last status: data, forward_backward, optimizer, ema, snapshot.",
)
TRAINING_DEVICES = Metric(
    "phema_training_devices",
    "gauge",
    "devices",
    ("run_id", "device"),
    ("training",),
    "Training workers of the run, one device each, by the device's type (cpu, cuda).",
)
TRAINING_MEMORY = Metric(
    "phema_training_memory_bytes",
    "gauge",
    "bytes",
    ("run_id", "device"),
    ("training",),
    "Peak memory of the first worker: allocated on its GPU, or resident in its process when it trains on a CPU.",
)
NONFINITE_GRADIENTS = Metric(
    "phema_training_nonfinite_gradients_total",
    "counter",
    "elements",
    ("run_id",),
    ("training",),
    "Gradient elements that were NaN or infinite; they are set to 0 before Adam.",
)
ACTIVATION_MAGNITUDE = Metric(
    "phema_activation_magnitude",
    "gauge",
    "1",
    ("run_id", "weights", "side", "resolution", "statistic"),
    ("training",),
    "Activation magnitude with the ema or training weights, by side (enc, dec), resolution and statistic (max, mean).",
)
WEIGHT_MAGNITUDE = Metric(
    "phema_weight_magnitude",
    "gauge",
    "1",
    ("run_id", "weights", "side", "resolution", "statistic"),
    ("training",),
    "Magnitude of the ema or training weights, by side (enc, dec), resolution and statistic (max, mean).",
)
SNAPSHOTS_UPLOADED = Metric(
    "phema_snapshots_uploaded_total",
    "counter",
    "snapshots",
    ("run_id",),
    ("training",),
    "Snapshots that are durable and registered.",
)
SNAPSHOT_BYTES = Metric(
    "phema_snapshot_bytes_total", "counter", "bytes", ("run_id",), ("training",), "Bytes of those snapshots."
)
CHECKPOINTS_UPLOADED = Metric(
    "phema_checkpoints_uploaded_total",
    "counter",
    "checkpoints",
    ("run_id",),
    ("training",),
    "Checkpoints that are durable and registered.",
)
CHECKPOINT_BYTES = Metric(
    "phema_checkpoint_bytes_total", "counter", "bytes", ("run_id",), ("training",), "Bytes of those checkpoints."
)
UPLOAD_SECONDS = Metric(
    "phema_upload_seconds",
    "histogram",
    "s",
    ("run_id", "kind"),
    ("training",),
    "Time to encode, store and register a snapshot or checkpoint in the background.",
)
UPLOADS_PENDING = Metric(
    "phema_uploads_pending",
    "gauge",
    "uploads",
    ("run_id",),
    ("training",),
    "Snapshots and checkpoints that are copied off the device and not yet registered.",
)
UPLOAD_RETRIES = Metric(
    "phema_upload_retries_total",
    "counter",
    "tries",
    ("run_id", "cause"),
    ("training",),
    "Retries of uploads because the store or the catalog (cause) did not answer.",
)
SNAPSHOT_STALL_SECONDS = Metric(
    "phema_snapshot_stall_seconds_total",
    "counter",
    "s",
    ("run_id",),
    ("training",),
    "Time the training loop spent on copying weights and on waiting for earlier uploads.",
)

# Trainer: the reconciler.
TRAININGS_RUNNING = Metric(
    "phema_trainings_running", "gauge", "runs", (), ("trainer",), "Training runs that hold a lease."
)
TRAINING_ATTEMPTS = Metric(
    "phema_training_attempts_total",
    "counter",
    "attempts",
    ("outcome",),
    ("trainer",),
    "Attempts that the trainer submitted, found lost or expired, cancelled or paused (outcome).",
)

# Workers.
JOB_SECONDS = Metric(
    "phema_job_seconds",
    "histogram",
    "s",
    ("kind", "state"),
    ("trainer", "worker"),
    "Time from the claim of a job to its terminal state.",
)
RECONSTRUCTIONS = Metric(
    "phema_reconstructions_total", "counter", "reconstructions", (), ("worker",), "Reconstructions written."
)
RECONSTRUCTION_BYTES_READ = Metric(
    "phema_reconstruction_read_bytes_total",
    "counter",
    "bytes",
    (),
    ("worker",),
    "Snapshot bytes read by reconstructions and compactions.",
)
RECONSTRUCTION_BYTES_WRITTEN = Metric(
    "phema_reconstruction_written_bytes_total",
    "counter",
    "bytes",
    (),
    ("worker",),
    "Bytes of reconstructions and bases written.",
)
RECONSTRUCTION_SECONDS = Metric(
    "phema_reconstruction_seconds_total",
    "counter",
    "s",
    (),
    ("worker",),
    "Time actors spent on reading those bytes and writing the results.",
)
BASES = Metric("phema_bases_total", "counter", "bases", (), ("worker",), "Bases written.")
SNAPSHOTS_DELETED = Metric(
    "phema_snapshots_deleted_total", "counter", "snapshots", (), ("worker",), "Snapshots deleted by retention."
)
SNAPSHOT_BYTES_FREED = Metric(
    "phema_snapshot_bytes_freed_total", "counter", "bytes", (), ("worker",), "Bytes of those snapshots."
)
EVALUATION_SAMPLES = Metric(
    "phema_evaluation_samples_total", "counter", "pictures", (), ("worker",), "Pictures sampled by evaluations."
)
EVALUATION_SECONDS = Metric(
    "phema_evaluation_seconds_total",
    "counter",
    "s",
    (),
    ("worker",),
    "Time actors spent on sampling and scoring those pictures.",
)
SAMPLED_PICTURES = Metric(
    "phema_sampled_pictures_total", "counter", "pictures", (), ("worker",), "Pictures drawn without scoring them."
)
SAMPLE_SECONDS = Metric(
    "phema_sample_seconds_total", "counter", "s", (), ("worker",), "Time actors spent on drawing and storing those."
)
ACTOR_RESTARTS = Metric(
    "phema_actor_restarts_total", "counter", "restarts", (), ("worker",), "Ray actors that died and were replaced."
)

# API.
QUEUE_JOBS = Metric("phema_queue_jobs", "gauge", "jobs", ("kind", "state"), ("api",), "Jobs by kind and state.")
QUEUE_OLDEST_SECONDS = Metric(
    "phema_queue_oldest_seconds",
    "gauge",
    "s",
    ("kind",),
    ("api",),
    "Age of the oldest queued job that waits for nothing but a worker.",
)
QUEUE_ATTEMPTS = Metric(
    "phema_queue_attempts",
    "gauge",
    "attempts",
    ("kind", "outcome"),
    ("api",),
    "All attempts that have ended, by kind and outcome (succeeded, failed, cancelled, released, expired, paused).",
)
RUN_EVENTS = Metric(
    "phema_run_events",
    "gauge",
    "events",
    ("kind",),
    ("api",),
    "All recorded changes of runs, by kind (docs/life-cycle.md).",
)
TARGETS = Metric(
    "phema_targets",
    "gauge",
    "processes",
    ("kind", "state"),
    ("api",),
    "Processes by kind and state: live, or silent (lost in the last 15 minutes without deregistering).",
)
API_READY = Metric(
    "phema_api_ready",
    "gauge",
    "1",
    ("part",),
    ("api",),
    "1 if the API's last check of the part (catalog, store) succeeded, else 0.",
)
DISK_FREE = Metric(
    "phema_disk_free_bytes",
    "gauge",
    "bytes",
    ("place",),
    ("api",),
    "Bytes available to phema on the file system of the place: state (state folder), store (a local store).",
)
DISK_SIZE = Metric("phema_disk_size_bytes", "gauge", "bytes", ("place",), ("api",), "Size of that file system.")
HTTP_REQUESTS = Metric(
    "phema_http_requests_total", "counter", "requests", ("method", "route", "status"), ("api",), "Requests answered."
)
HTTP_REQUEST_SECONDS = Metric(
    "phema_http_request_seconds", "histogram", "s", ("method", "route"), ("api",), "Time to answer a request."
)

METRICS: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))


def metrics_of(source: Source) -> tuple[Metric, ...]:
    """The metrics that processes of this kind serve."""
    return tuple(metric for metric in METRICS if source in metric.sources)
