"""Waiting for a catalog that cannot be reached for a while."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from phema.shared.catalog import CatalogUnreachable

RETRY_SECONDS = 0.5
"""Default pause between two tries."""
T = TypeVar("T")
log = logging.getLogger(__name__)


def outlast(
    action: Callable[[], T],
    what: str,
    *,
    limit_s: float,
    retry_s: float = RETRY_SECONDS,
    stopping: threading.Event | None = None,
    on_outage: Callable[[], object] | None = None,
) -> T:
    """The result of `action`, which is tried again while it raises CatalogUnreachable.

    Raises CatalogUnreachable when the catalog has been away for `limit_s`, or once `stopping` is set.

    Args:
        what: for the log: what waits for the catalog.
        on_outage: called after each try that did not reach the catalog.
    """
    began, stopping = time.monotonic(), stopping or threading.Event()
    while True:
        try:
            return action()
        except CatalogUnreachable as error:
            if on_outage is not None:
                on_outage()
            log.warning("%s waits for the catalog: %s", what, error)
            if time.monotonic() - began > limit_s or stopping.wait(retry_s):
                raise
