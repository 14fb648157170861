"""An S3 server for machines without MinIO: ministack, from the extra `test`."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

from deploy.local.process import CannotRun, Place, Program

HEALTH = "/_ministack/health"


def ministack(port: int, scratch: Path) -> tuple[list[str], dict[str, str]]:
    """(command, variables) of a server on 127.0.0.1 that keeps everything in memory, for `test` and `test`."""
    return [sys.executable, "-m", "ministack"], {
        "BIND_HOST": "127.0.0.1",  # it would listen everywhere
        "GATEWAY_PORT": str(port),
        "SERVICES": "s3",
        "S3_PERSIST": "0",
        "TMPDIR": str(scratch),
        "LOG_LEVEL": "WARNING",
    }


def object_store(place: Place, port: int) -> Program:
    """As compose's MinIO: with its credentials, and its data in its volume. Raises CannotRun without ministack."""
    if importlib.util.find_spec("ministack") is None:
        raise CannotRun("there is no S3 server: pip install -e '.[test]' brings ministack")
    command, variables = ministack(port, place.scratch)
    variables |= {
        "S3_PERSIST": "1",
        "S3_DATA_DIR": str(place.volume),
        "AWS_ACCESS_KEY_ID": place.environment["MINIO_ROOT_USER"],
        "AWS_SECRET_ACCESS_KEY": place.environment["MINIO_ROOT_PASSWORD"],
    }
    return Program(tuple(command), variables, replace(place.check, command=answers(f"http://127.0.0.1:{port}{HEALTH}")))


def answers(url: str) -> tuple[str, ...]:
    """A health check that asks `url`."""
    return (sys.executable, "-c", f"import urllib.request as u; u.urlopen('{url}', timeout=5)")
