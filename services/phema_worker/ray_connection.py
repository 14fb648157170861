"""The worker's connection to Ray, which may start later than the worker."""

from __future__ import annotations

import logging
import socket
import time

import ray

RETRY_SECONDS = 0.2
log = logging.getLogger(__name__)


def connect_to_ray(address: str) -> None:
    """Connect this process to the Ray cluster at `address`, and wait for the cluster if it does not answer yet."""
    said = ""
    while True:
        try:
            _reach(address)
            ray.init(address=address, logging_level=logging.WARNING, configure_logging=False)
            return
        # Ray has no common base class for what `init` raises while a cluster starts.
        except (OSError, RuntimeError, ray.exceptions.RayError) as error:
            sentence = _first_line(error)
            if sentence != said:
                log.warning("Ray does not answer at %s (%s); waiting for it", address, sentence)
                said = sentence
        time.sleep(RETRY_SECONDS)


def _reach(address: str) -> None:
    """Raises OSError when nobody listens at `address`: Ray's own client would wait a minute and end the process."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
