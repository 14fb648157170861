"""Structured logs: one JSON object per line on standard error, with the same field names in every process."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import IO

LOG_FIELDS: dict[str, str] = {
    "at": "time of the line, ISO 8601 in UTC",
    "level": "debug, info, warning or error",
    "service": "api, trainer, training or worker",
    "logger": "module that wrote the line",
    "message": "what happened, as one sentence",
    "run_id": "run that the line is about",
    "job_id": "job that the line is about",
    "attempt": "attempt of the job (its fencing token)",
    "request_id": "request that is being answered, or that created the job",
    "rank": "rank of the training worker",
    "num_images": "images that the run had seen",
    "key": "key of the object in the store",
    "size": "size of that object in bytes",
    "seconds": "duration of the operation",
    "address": "address where metrics are served",
    "method": "HTTP method",
    "route": "HTTP route",
    "status": "HTTP status",
    "error": "traceback of the exception",
}
"""All fields of log lines and their meaning. `docs/metrics.md` contains the same table."""

_FIXED = ("at", "level", "service", "logger", "message", "error")
_fields: ContextVar[dict[str, object] | None] = ContextVar("log_fields", default=None)
_process_fields: dict[str, object] = {}


class _JsonFormatter(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
            **_process_fields,
            **(_fields.get() or {}),
        }
        line |= {name: value for name, value in vars(record).items() if name in LOG_FIELDS and name not in _FIXED}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps({name: value for name, value in line.items() if value is not None}, default=str)


def _own_stderr() -> IO[str]:
    """Standard error with a buffer of its own, which writes whole lines; `sys.stderr` does so from now on, too.

    Ray prints the lines of actors to `sys.stderr` in two pieces, the text and the line break. In a common buffer, or
    without one (PYTHONUNBUFFERED), a line of another thread could come between them.
    """
    try:
        number = sys.stderr.fileno()
    except (AttributeError, OSError):  # replaced by something without a file
        return sys.stderr
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(line_buffering=True, write_through=False)
    return open(number, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def configure_logs(service: str, *, level: str = "info", stream: IO[str] | None = None, **fields: object) -> None:
    """Write every log line of this process to `stream` (by default standard error) as JSON, with `fields` in each line.

    Call it once, at the start of the process. Raises ValueError for a field that is not in LOG_FIELDS.
    """
    global _process_fields
    _process_fields = _checked(fields)
    handler = logging.StreamHandler(stream or _own_stderr())
    handler.setFormatter(_JsonFormatter(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for verbose in ("httpx", "httpcore", "botocore", "boto3", "urllib3", "alembic"):
        logging.getLogger(verbose).setLevel(logging.WARNING)


@contextlib.contextmanager
def log_fields(**fields: object) -> Iterator[None]:
    """Add `fields` to every line that this thread or task writes in the block; a value of None leaves the field out.

    Raises ValueError for a field that is not in LOG_FIELDS.
    """
    token = _fields.set({**(_fields.get() or {}), **_checked(fields)})
    try:
        yield
    finally:
        _fields.reset(token)


@contextlib.contextmanager
def process_log_fields(**fields: object) -> Iterator[None]:
    """Add `fields` to every line that any thread of this process writes in the block.

    For processes that work on one job at a time. Raises ValueError for a field that is not in LOG_FIELDS.
    """
    global _process_fields
    before = _process_fields
    _process_fields = {**before, **_checked(fields)}
    try:
        yield
    finally:
        _process_fields = before


def _checked(fields: dict[str, object]) -> dict[str, object]:
    unknown = sorted(set(fields) - set(LOG_FIELDS))
    if unknown:
        raise ValueError(f"log field {unknown[0]!r} is unknown; allowed: {', '.join(LOG_FIELDS)}")
    return fields
