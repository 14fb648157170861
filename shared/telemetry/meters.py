"""The metric values of one process, and the HTTP server from which Prometheus scrapes them."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from phema.shared.telemetry.metrics import HISTOGRAM_BUCKETS, Metric, Source, metrics_of
from phema.shared.telemetry.metrics_address import listening_address


class MeterError(ValueError):
    """This process does not serve the metric, or the operation does not fit the metric's kind or labels."""


class Meters:
    """All metrics of one kind of process, in a registry of their own. Thread-safe.

    Metrics without labels start at 0. A series with labels appears with `begin` or its first value.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.registry = CollectorRegistry()
        self._collectors: dict[str, Counter | Gauge | Histogram] = {}
        for metric in metrics_of(source):
            self._collectors[metric.name] = self._collector(metric)

    def _collector(self, metric: Metric) -> Counter | Gauge | Histogram:
        if metric.kind == "histogram":
            return Histogram(metric.name, metric.help, metric.labels, registry=self.registry, buckets=HISTOGRAM_BUCKETS)
        kind = Counter if metric.kind == "counter" else Gauge
        return kind(metric.name, metric.help, metric.labels, registry=self.registry)

    def begin(self, metric: Metric, **labels: str) -> None:
        """Serve the series with these labels, starting at 0. Raises MeterError.

        Prometheus's `increase` does not see the first event of a series that appears with that event. Nor can an alert
        on missing events see a series that does not exist.
        """
        self._child(metric, labels)

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Set a gauge. Raises MeterError."""
        child = self._child(metric, labels)
        if not isinstance(child, Gauge):
            raise MeterError(f"{metric.name} is a {metric.kind}; only a gauge can be set")
        child.set(value)

    def add(self, metric: Metric, amount: float = 1.0, **labels: str) -> None:
        """Increase a counter or a gauge by `amount`. Raises MeterError."""
        child = self._child(metric, labels)
        if isinstance(child, Histogram):
            raise MeterError(f"{metric.name} is a histogram; use observe")
        child.inc(amount)

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """Add one observation to a histogram. Raises MeterError."""
        child = self._child(metric, labels)
        if not isinstance(child, Histogram):
            raise MeterError(f"{metric.name} is a {metric.kind}; only a histogram observes")
        child.observe(value)

    def clear(self, metric: Metric) -> None:
        """Remove all series of a metric with labels, so that outdated ones are not served. Raises MeterError."""
        self._collector_of(metric).clear()

    def _collector_of(self, metric: Metric) -> Counter | Gauge | Histogram:
        if metric.name not in self._collectors:
            raise MeterError(f"{metric.name} is served by {', '.join(metric.sources)}, not by {self.source}")
        return self._collectors[metric.name]

    def _child(self, metric: Metric, labels: dict[str, str]) -> Counter | Gauge | Histogram:
        collector = self._collector_of(metric)
        if set(labels) != set(metric.labels):
            raise MeterError(f"{metric.name} has the labels {list(metric.labels)}, got {sorted(labels)}")
        return collector.labels(**labels) if labels else collector


def serve_metrics(registry: CollectorRegistry, host: str) -> tuple[str, Callable[[], None]]:
    """Serve `registry` over HTTP on a free port. Returns ("host:port", a function that stops the server).

    `host` is an address of this machine, or `auto` for its own address. Raises OSError for any other address.
    """
    host = listening_address(host)
    server, thread = start_http_server(0, addr=host, registry=registry)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    name = f"[{host}]" if ":" in host else host
    return f"{name}:{server.server_port}", stop
