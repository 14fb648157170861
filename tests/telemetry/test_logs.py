"""Log lines are JSON objects with the documented fields."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from shared.telemetry import LOG_FIELDS, configure_logs, log_fields


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_line_carries_process_block_and_call_fields(stream: io.StringIO) -> None:
    configure_logs("training", stream=stream, run_id="run-1", rank=0)
    with log_fields(job_id="job-1", attempt=2):
        logging.getLogger("a.b").info("wrote %d bytes", 7, extra={"key": "k", "size": 7})
    logging.getLogger("a.b").debug("not at this level")
    (line,) = [json.loads(text) for text in stream.getvalue().splitlines()]
    assert line.pop("at").endswith("+00:00")
    assert line == {
        "level": "info",
        "service": "training",
        "logger": "a.b",
        "message": "wrote 7 bytes",
        "run_id": "run-1",
        "rank": 0,
        "job_id": "job-1",
        "attempt": 2,
        "key": "k",
        "size": 7,
    }


def test_an_exception_becomes_one_line(stream: io.StringIO) -> None:
    configure_logs("api", stream=stream)
    try:
        raise KeyError("lost")
    except KeyError:
        logging.getLogger("x").exception("it broke")
    (text,) = stream.getvalue().splitlines()
    line = json.loads(text)
    assert line["level"] == "error"
    assert "KeyError: 'lost'" in line["error"]
    assert set(line) <= set(LOG_FIELDS)


def test_a_field_that_is_not_documented_is_refused(stream: io.StringIO) -> None:
    with pytest.raises(ValueError, match="log field 'runid' is unknown"), log_fields(runid="run-1"):
        pass
    with pytest.raises(ValueError, match="log field 'runid' is unknown"):
        configure_logs("api", stream=stream, runid="run-1")
