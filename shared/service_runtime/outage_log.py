"""What a process logs about outages of the catalog: one line when one begins, and one when it is over."""

from __future__ import annotations

import logging
import threading
import time

from phema.shared.catalog import CatalogUnreachable

log = logging.getLogger(__name__)


class OutageLog:
    """Shared by the parts of a process that use the catalog again and again. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began: float | None = None

    def missed(self, error: CatalogUnreachable) -> None:
        """The catalog was not reached."""
        with self._lock:
            if self._began is None:
                self._began = time.monotonic()
                log.warning("the catalog is away; work waits until it is back: %s", error)

    def reached(self) -> None:
        """The catalog was reached."""
        with self._lock:
            if self._began is not None:
                log.warning("the catalog is back after %.0f s", time.monotonic() - self._began)
                self._began = None
