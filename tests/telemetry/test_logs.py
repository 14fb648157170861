"""Log lines are JSON objects with the documented fields."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import threading

import pytest

from phema.shared.telemetry import LOG_FIELDS, configure_logs, log_fields, process_log_fields


def test_a_line_carries_process_block_and_call_fields(log_stream: io.StringIO) -> None:
    configure_logs("training", stream=log_stream, run_id="run-1", rank=0)
    with log_fields(job_id="job-1", attempt=2):
        logging.getLogger("a.b").info("wrote %d bytes", 7, extra={"key": "k", "size": 7})
    logging.getLogger("a.b").debug("not at this level")
    (line,) = [json.loads(text) for text in log_stream.getvalue().splitlines()]
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


def test_fields_of_a_block_are_its_threads_or_all_threads(log_stream: io.StringIO) -> None:
    configure_logs("worker", stream=log_stream, run_id="run-0")
    go = threading.Event()

    def write() -> None:
        go.wait()
        logging.getLogger("a").warning("from a thread that was there before")

    thread = threading.Thread(target=write)
    thread.start()
    with process_log_fields(run_id="run-1", request_id="req-1"), log_fields(job_id="job-1", attempt=None):
        logging.getLogger("a").warning("from the thread itself")
        go.set()
        thread.join()
    logging.getLogger("a").warning("after the block")
    names = ("message", "run_id", "request_id", "job_id", "attempt")
    lines = [json.loads(text) for text in log_stream.getvalue().splitlines()]
    assert [{name: line[name] for name in names if name in line} for line in lines] == [
        {"message": "from the thread itself", "run_id": "run-1", "request_id": "req-1", "job_id": "job-1"},
        {"message": "from a thread that was there before", "run_id": "run-1", "request_id": "req-1"},
        {"message": "after the block", "run_id": "run-0"},
    ]


def test_an_exception_becomes_one_line(log_stream: io.StringIO) -> None:
    configure_logs("api", stream=log_stream)
    try:
        raise KeyError("lost")
    except KeyError:
        logging.getLogger("x").exception("it broke")
    (text,) = log_stream.getvalue().splitlines()
    line = json.loads(text)
    assert line["level"] == "error"
    assert "KeyError: 'lost'" in line["error"]
    assert set(line) <= set(LOG_FIELDS)


def test_a_field_that_is_not_documented_is_refused(log_stream: io.StringIO) -> None:
    with pytest.raises(ValueError, match="log field 'runid' is unknown"), log_fields(runid="run-1"):
        pass
    with pytest.raises(ValueError, match="log field 'runid' is unknown"):
        configure_logs("api", stream=log_stream, runid="run-1")
    with pytest.raises(ValueError, match="log field 'runid' is unknown"), process_log_fields(runid="run-1"):
        pass


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_line_is_not_mixed_with_what_others_print_in_pieces(unbuffered: str) -> None:
    """As Ray does with the lines of actors."""
    script = """
import logging, sys
from phema.shared.telemetry import configure_logs
configure_logs("worker")
print('{"at": "of an actor"', end="", file=sys.stderr)
logging.warning("ours")
print("}", file=sys.stderr)
"""
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    ours, theirs = (json.loads(line) for line in done.stderr.splitlines())
    assert (ours["message"], theirs) == ("ours", {"at": "of an actor"})
