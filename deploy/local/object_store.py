"""An S3 server for machines without MinIO: ministack, from the extra `test`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from phema.local_service.service import CannotStart, Service, http_check

HEALTH = "/_ministack/health"


def ministack(port: int, scratch: Path) -> tuple[list[str], dict[str, str]]:
    """(command, variables) of a server on 127.0.0.1 that keeps everything in memory; key and secret are `test`."""
    return [sys.executable, "-m", "ministack"], {
        "BIND_HOST": "127.0.0.1",  # the default is every interface
        "GATEWAY_PORT": str(port),
        "SERVICES": "s3",
        "S3_PERSIST": "0",
        "TMPDIR": str(scratch),
        "LOG_LEVEL": "WARNING",
    }


def object_store(service: Service, variables: Mapping[str, str], volume: Path, scratch: Path, port: int) -> Service:
    """MinIO's service with ministack, with compose's credentials and data in `volume`.

    Raises CannotStart without ministack.
    """
    if importlib.util.find_spec("ministack") is None:
        raise CannotStart("there is no S3 server: pip install -e '.[test]' brings ministack")
    assert service.check is not None
    command, own = ministack(port, scratch)
    own |= {
        "S3_PERSIST": "1",
        "S3_DATA_DIR": str(volume),
        "AWS_ACCESS_KEY_ID": variables["MINIO_ROOT_USER"],
        "AWS_SECRET_ACCESS_KEY": variables["MINIO_ROOT_PASSWORD"],
    }
    return replace(
        service,
        command=tuple(command),
        environment={**service.environment, **own},
        check=replace(service.check, command=http_check(f"http://127.0.0.1:{port}{HEALTH}")),
    )
