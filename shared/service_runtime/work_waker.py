"""Waiting for work: a process sleeps until the catalog's doorbell rings, or until it is time to look anyway."""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from types import TracebackType
from typing import Self

from phema.shared.catalog import Catalog, CatalogUnreachable

PATIENCE = 10
"""With a doorbell that works, services look for work this many times less often."""
_RETRY_SECONDS = 2.0
"""Pause before the doorbell is connected again."""
_SLICE_SECONDS = 0.5
"""How soon a wait ends after `stopping` was set. Nothing is asked of the catalog in between."""
log = logging.getLogger(__name__)


class WorkWaker:
    """Context manager that listens to the catalog's doorbell in a thread, for all threads of a process.

    A thread reads `rings` before it looks for work, and passes it to `wait` when there was none: so it also hears a
    ring that came in between.
    """

    def __init__(self, catalog: Catalog, poll_s: float) -> None:
        """`poll_s`: interval between two looks while no doorbell works."""
        self._catalog, self._poll_s = catalog, poll_s
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._close_reader, self._close_writer = os.pipe()
        self._thread = threading.Thread(target=self._run, name="doorbell", daemon=True)
        self.rings = 0
        self.works = False
        """Whether a ring has been heard since the connection was made. The listener rings itself once."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        os.write(self._close_writer, b"\n")
        self._thread.join()
        os.close(self._close_writer)
        os.close(self._close_reader)

    @property
    def pause_s(self) -> float:
        """Seconds after which an idle thread looks again, if nobody rings."""
        return self._poll_s * (PATIENCE if self.works else 1)

    def wait(self, rings: int, stopping: threading.Event, seconds: float) -> None:
        """Wait until somebody has rung since `rings` was read, `stopping` is set, or `seconds` are over."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while self.rings == rings and not stopping.is_set():
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                self._changed.wait(min(left, _SLICE_SECONDS))

    def _run(self) -> None:
        warned = ""
        while not self._closing.is_set():
            try:
                self._listen()
            except (CatalogUnreachable, OSError) as error:
                if str(error) != warned:
                    log.warning("nobody wakes this process when there is work; it looks by itself: %s", error)
                warned = str(error)
            self.works = False
            self._closing.wait(_RETRY_SECONDS)

    def _listen(self) -> None:
        with self._catalog.listening() as bell:
            self._catalog.ring()
            while not self._closing.is_set():
                select.select([bell.fileno(), self._close_reader], [], [])
                if bell.drain():
                    self.works = True
                    with self._changed:
                        self.rings += 1
                        self._changed.notify_all()
