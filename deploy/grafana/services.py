"""The dashboards of what all runs share: fleet, store, API."""

from __future__ import annotations

from deploy.grafana.panels import NONE_IS_GOOD, Dashboard, Event, Panel, Query, Row, mean, one, or_zero, stat

NODE = "{{instance}}"


def _of_nodes(metric: str) -> str:
    """A metric that Ray reports of each node. Sessions of Ray have labels of their own, which a restart changes."""
    return f'max by (instance) ({metric}{{job="ray"}})'


# Two attempts of a run may be seen side by side for a moment.
TRAINING_DEVICES = "max by (run_id, device) (phema_training_devices)"

FLEET = Dashboard(
    uid="phema-fleet",
    title="phema: Fleet",
    about="All runs, the queue, processes and devices, and what fails.",
    events=(Event("alert", 'ALERTS{alertname=~"Phema.*", alertstate="firing"}', "red", "{{alertname}}"),),
    rows=(
        # Only what is phema's: a Prometheus that it shares has alerts and targets of others.
        Row(
            "Now",
            (
                stat("Trainings", "short", "max(phema_trainings_running)"),
                stat("Jobs waiting", "short", 'sum(kind_state:phema_queue_jobs:max{state="queued"}) or vector(0)'),
                stat("Jobs running", "short", 'sum(kind_state:phema_queue_jobs:max{state="running"}) or vector(0)'),
                stat("Devices in training", "short", f"sum({TRAINING_DEVICES}) or vector(0)"),
                stat(
                    "Processes lost",
                    "short",
                    'sum(max by (kind) (phema_targets{state="silent"}))',
                    limits=NONE_IS_GOOD,
                ),
                stat(
                    "Alerts",
                    "short",
                    'count(ALERTS{alertname=~"Phema.*", alertstate="firing"}) or vector(0)',
                    limits=NONE_IS_GOOD,
                ),
            ),
        ),
        Row(
            "Runs",
            (
                one(
                    "Done",
                    "percentunit",
                    "max by (run_id) (phema_training_images) / max by (run_id) (phema_training_total_images)"
                    " * on (run_id) group_right () max by (run_id, name) (phema_training_info)",
                    "{{name}}",
                ),
                one(
                    "Images per second",
                    "short",
                    "max by (run_id) (phema_training_images_per_second)"
                    " * on (run_id) group_right () max by (run_id, name) (phema_training_info)",
                    "{{name}}",
                    stack=True,
                ),
                one(
                    "Firing alerts",
                    "short",
                    or_zero('sum by (alertname) (ALERTS{alertname=~"Phema.*", alertstate="firing"})', "alertname"),
                    "{{alertname}}",
                    about="The runbook has a section for each alert.",
                    high=1.0,
                    limits=((None, "text"), (1.0, "red")),
                ),
            ),
        ),
        Row(
            "Queue",
            (
                one(
                    "Queued and running jobs",
                    "short",
                    or_zero('kind_state:phema_queue_jobs:max{state=~"queued|running"}', "state"),
                    "{{kind}} {{state}}",
                    high=1.0,
                ),
                one(
                    "Age of the oldest waiting job",
                    "s",
                    "max by (kind) (phema_queue_oldest_seconds) or max by (kind) (phema_queue_jobs) * 0",
                    "{{kind}}",
                ),
                one("Mean time of a job", "s", mean("phema_job_seconds", "kind, state"), "{{kind}} {{state}}"),
            ),
        ),
        Row(
            "Failures",
            (
                one(
                    "Attempts",
                    "short",
                    "sum by (outcome) (max by (kind, outcome) (phema_queue_attempts))",
                    "{{outcome}}",
                ),
                one(
                    "Attempts by action of the trainer",
                    "short",
                    "sum by (outcome) (phema_training_attempts_total)",
                    "{{outcome}}",
                ),
                one(
                    "Changes of runs",
                    "short",
                    "max by (kind) (phema_run_events)",
                    "{{kind}}",
                    about="How often a run was created, started, paused, extended, failed and so on.",
                ),
                one("Actors that died", "short", "sum(phema_actor_restarts_total)", "actors", high=1.0),
            ),
        ),
        Row(
            "Cluster",
            (
                one(
                    "GPUs and CPUs of Ray",
                    "short",
                    or_zero(
                        'sum by (Name, State) (ray_resources{job="ray", Name=~"GPU|CPU"})', "Name", "Ray is not scraped"
                    ),
                    "{{Name}} {{State}}",
                    about="USED is what Ray has given to trainings and actors, AVAILABLE what it could still give. "
                    "No line of GPU: the cluster has none.",
                ),
                one(
                    "Devices in training by type",
                    "short",
                    or_zero(f"sum by (device) ({TRAINING_DEVICES})", "device"),
                    "{{device}}",
                    stack=True,
                ),
                one(
                    "Memory of first workers",
                    "bytes",
                    "max by (run_id, device) (phema_training_memory_bytes)",
                    "{{run_id}} ({{device}})",
                ),
            ),
        ),
        Row(
            "Nodes",
            (
                Panel(
                    "Memory in use",
                    "percentunit",
                    (Query(f"{_of_nodes('ray_node_mem_used')} / {_of_nodes('ray_node_mem_total')}", NODE),),
                    about="Of each node of Ray; in a container, of its limit. At 95 % Ray ends processes.",
                    high=1.0,
                    limits=((None, "text"), (0.95, "red")),
                ),
                Panel(
                    "CPU in use",
                    "percentunit",
                    (Query(f"{_of_nodes('ray_node_cpu_utilization')} / 100", NODE),),
                    about="Of all CPUs of the node.",
                    high=1.0,
                ),
                Panel(
                    "Disk in use",
                    "percentunit",
                    (Query(f"{_of_nodes('ray_node_disk_utilization_percentage')} / 100", NODE),),
                    about="Of the disk that holds the temporary files of the node. Ray refuses work at 95 %.",
                    high=1.0,
                    limits=((None, "text"), (0.95, "red")),
                ),
            ),
        ),
        Row(
            "Processes",
            (
                one(
                    "Registered with the API",
                    "short",
                    "max by (kind, state) (phema_targets)",
                    "{{kind}} {{state}}",
                    width=12,
                ),
                one(
                    "Scraped by Prometheus",
                    "short",
                    'sum by (service) (up{job=~"phema|phema-api|ray"})',
                    "{{service}}",
                    width=12,
                ),
            ),
        ),
    ),
)

STORE = Dashboard(
    uid="phema-store",
    title="phema: Store and reconstruction",
    about="Bytes into the store, weights made from snapshots, pictures made from weights.",
    rows=(
        Row(
            "Uploads of trainings",
            (
                Panel(
                    "Written",
                    "Bps",
                    (
                        Query("sum(rate(phema_snapshot_bytes_total[$__rate_interval]))", "snapshots"),
                        Query("sum(rate(phema_checkpoint_bytes_total[$__rate_interval]))", "checkpoints"),
                    ),
                ),
                one("Mean upload time", "s", mean("phema_upload_seconds", "kind"), "{{kind}}"),
                one("Waiting", "short", "max by (run_id) (phema_uploads_pending)", "{{run_id}}", high=1.0),
                one(
                    "Upload retries",
                    "short",
                    "sum by (cause) (increase(phema_upload_retries_total[$__rate_interval]))",
                    "{{cause}}",
                    width=12,
                    high=1.0,
                    limits=((None, "text"), (1.0, "orange")),
                ),
                one(
                    "Time that training waits for uploads",
                    "percentunit",
                    "max by (run_id) (rate(phema_snapshot_stall_seconds_total[$__rate_interval]))",
                    "{{run_id}}",
                    width=12,
                    high=0.06,
                    limits=((None, "text"), (0.05, "orange")),
                ),
            ),
        ),
        Row(
            "Reconstruction",
            (
                one(
                    "Read speed",
                    "Bps",
                    "phema_reconstruction:read_bytes_per_second",
                    "read",
                    about="Bytes read per second of work, over 15 minutes; 0 without work.",
                    width=6,
                ),
                Panel(
                    "Bytes",
                    "Bps",
                    (
                        Query("sum(rate(phema_reconstruction_read_bytes_total[$__rate_interval]))", "read"),
                        Query("sum(rate(phema_reconstruction_written_bytes_total[$__rate_interval]))", "written"),
                    ),
                    width=6,
                ),
                Panel(
                    "Outputs since the workers started",
                    "short",
                    (
                        Query("sum(phema_reconstructions_total)", "reconstructions"),
                        Query("sum(phema_bases_total)", "bases"),
                    ),
                    width=6,
                ),
                one(
                    "Reconstructing actors",
                    "short",
                    "sum(rate(phema_reconstruction_seconds_total[$__rate_interval]))",
                    "actors",
                    width=6,
                ),
            ),
        ),
        Row(
            "Evaluation",
            (
                one(
                    "Pictures per second",
                    "short",
                    "phema_evaluation:samples_per_second",
                    "pictures/s",
                    about="Sampled and scored pictures per second of work, over 15 minutes; 0 without work.",
                ),
                one("Pictures since the workers began", "short", "sum(phema_evaluation_samples_total)", "pictures"),
                one(
                    "Evaluating actors",
                    "short",
                    "sum(rate(phema_evaluation_seconds_total[$__rate_interval]))",
                    "actors",
                ),
            ),
        ),
        Row(
            "Drawing without scoring",
            (
                one("Pictures drawn since the workers began", "short", "sum(phema_sampled_pictures_total)", "pictures"),
                one(
                    "Drawing actors",
                    "short",
                    "sum(rate(phema_sample_seconds_total[$__rate_interval]))",
                    "actors",
                ),
            ),
        ),
        Row(
            "Disk",
            (
                Panel(
                    "Disk in use",
                    "percentunit",
                    (
                        Query(
                            "1 - min by (place) (phema_disk_free_bytes) / max by (place) (phema_disk_size_bytes)",
                            "{{place}}",
                        ),
                    ),
                    about="Disks of the machine that runs the API. A bucket elsewhere is monitored by its own server.",
                    kind="bargauge",
                    limits=((None, "green"), (0.8, "orange"), (0.9, "red")),
                ),
                one("Freed by retention", "bytes", "sum(phema_snapshot_bytes_freed_total)", "bytes"),
                one("Snapshots deleted by retention", "short", "sum(phema_snapshots_deleted_total)", "snapshots"),
            ),
        ),
    ),
)

API = Dashboard(
    uid="phema-api",
    title="phema: API",
    about="Requests, errors and latency by route.",
    rows=(
        Row(
            "Now",
            (
                stat("Processes", "short", 'sum(up{job="phema-api"})', width=6, limits=((None, "red"), (1.0, "green"))),
                stat("Requests per second", "reqps", "sum(rate(phema_http_requests_total[$__rate_interval]))", width=6),
                stat(
                    "Errors",
                    "percentunit",
                    "phema_http_requests:errors_share5m",
                    "Share of 5xx responses over 5 minutes, without probes and scrapes.",
                    width=6,
                    limits=((None, "green"), (0.01, "orange"), (0.05, "red")),
                ),
                stat(
                    "Catalog and store",
                    "short",
                    "min(phema_api_ready)",
                    "Whether the last check of both succeeded.",
                    width=6,
                    limits=((None, "red"), (1.0, "green")),
                    words=((1.0, "ready"), (0.0, "not ready")),
                ),
            ),
        ),
        Row(
            "Requests",
            (
                one(
                    "By route",
                    "reqps",
                    "sum by (method, route) (rate(phema_http_requests_total[$__rate_interval]))",
                    "{{method}} {{route}}",
                    width=12,
                ),
                one(
                    "By status",
                    "reqps",
                    "sum by (status) (rate(phema_http_requests_total[$__rate_interval]))",
                    "{{status}}",
                    width=12,
                ),
            ),
        ),
        Row(
            "Latency",
            (
                one("95 % by route", "s", "route:phema_http_request_seconds:p95_5m", "{{route}}", width=12, log=True),
                one(
                    "Mean by route",
                    "s",
                    "sum by (route) (rate(phema_http_request_seconds_sum[$__rate_interval]))"
                    " / sum by (route) (rate(phema_http_request_seconds_count[$__rate_interval]))",
                    "{{route}}",
                    width=12,
                    log=True,
                ),
            ),
        ),
    ),
)
