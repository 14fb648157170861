"""Metrics and structured logs: every metric name and log field of phema is defined here. Imports no torch.

`metrics` is the table of metrics; start reading there. `Meters(source)` holds the values of one process, and
`serve_metrics` serves them to Prometheus. `configure_logs`, `log_fields` and `process_log_fields` set up log lines.
"""

from phema.shared.telemetry.logs import LOG_FIELDS, configure_logs, log_fields, process_log_fields
from phema.shared.telemetry.meters import MeterError, Meters, serve_metrics
from phema.shared.telemetry.metrics import METRICS, Metric, Source, metrics_of

__all__ = [
    "LOG_FIELDS",
    "METRICS",
    "MeterError",
    "Meters",
    "Metric",
    "Source",
    "configure_logs",
    "log_fields",
    "metrics_of",
    "process_log_fields",
    "serve_metrics",
]
