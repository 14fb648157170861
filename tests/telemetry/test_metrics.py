"""The metric table, the meters and the document that lists them."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from phema.shared.telemetry import LOG_FIELDS, METRICS, MeterError, Meters, metrics_of, serve_metrics
from phema.shared.telemetry import metrics as table

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"


def documented(heading: str) -> list[list[str]]:
    section = DOCUMENT.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def test_the_document_lists_every_metric() -> None:
    expected = [[f"`{m.name}`", m.kind, m.unit, ", ".join(m.labels), ", ".join(m.sources), m.help] for m in METRICS]
    assert documented("Metrics") == expected


def test_the_document_lists_every_log_field() -> None:
    assert documented("Log fields") == [[f"`{name}`", meaning] for name, meaning in LOG_FIELDS.items()]


def test_names_are_unique_and_follow_the_conventions() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert re.fullmatch(r"phema_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert metric.help.endswith(".")


def test_each_kind_of_process_serves_its_own_metrics_only() -> None:
    trainer = Meters("trainer")
    with pytest.raises(MeterError, match="phema_training_loss is served by training, not by trainer"):
        trainer.set(table.TRAINING_LOSS, 1.0, run_id="run-1")
    assert {m.name for m in metrics_of("trainer")} < {m.name for m in METRICS}


def test_a_scrape_shows_what_was_set() -> None:
    meters = Meters("training")
    meters.set(table.TRAINING_LOSS, 0.75, run_id="run-1")
    meters.add(table.SNAPSHOT_BYTES, 1000, run_id="run-1")
    meters.add(table.SNAPSHOT_BYTES, 24, run_id="run-1")
    meters.observe(table.UPLOAD_SECONDS, 0.3, run_id="run-1", kind="snapshot")
    place = {"weights": "ema", "side": "enc", "resolution": "8", "statistic": "max"}
    meters.set(table.WEIGHT_MAGNITUDE, 0.9, run_id="run-1", **place)
    address, stop = serve_metrics(meters.registry, "127.0.0.1")
    try:
        text = httpx.get(f"http://{address}/metrics").text
    finally:
        stop()
    assert 'phema_training_loss{run_id="run-1"} 0.75' in text
    assert 'phema_snapshot_bytes_total{run_id="run-1"} 1024.0' in text
    assert 'phema_upload_seconds_bucket{kind="snapshot",le="0.5",run_id="run-1"} 1.0' in text
    assert 'phema_weight_magnitude{resolution="8",run_id="run-1",side="enc",statistic="max",weights="ema"} 0.9' in text
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://{address}/metrics")


def test_cleared_series_are_gone() -> None:
    meters = Meters("api")
    meters.set(table.QUEUE_JOBS, 3, kind="train", state="queued")
    meters.clear(table.QUEUE_JOBS)
    assert meters.registry.get_sample_value("phema_queue_jobs", {"kind": "train", "state": "queued"}) is None


def test_mistakes_with_kind_or_labels_are_refused() -> None:
    meters = Meters("training")
    with pytest.raises(MeterError, match="is a counter; only a gauge can be set"):
        meters.set(table.SNAPSHOT_BYTES, 1, run_id="run-1")
    with pytest.raises(MeterError, match="is a gauge; only a histogram observes"):
        meters.observe(table.TRAINING_LOSS, 1, run_id="run-1")
    with pytest.raises(MeterError, match="use observe"):
        meters.add(table.UPLOAD_SECONDS, 1, run_id="run-1", kind="snapshot")
    with pytest.raises(MeterError, match=r"has the labels \['run_id'\], got \[\]"):
        meters.set(table.TRAINING_LOSS, 1)
