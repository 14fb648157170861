"""Every metric name and log field, once. Torch-free.

`metrics` is the table, `Meters(source)` holds a process's values, `serve_metrics` offers them to Prometheus,
`configure_logs`, `log_fields` and `process_log_fields` write structured lines.
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
