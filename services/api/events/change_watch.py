"""The thread that waits for the catalog's doorbell and looks for changes."""

from __future__ import annotations

import logging
import select
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from phema.services.api.events.change_detector import ChangeDetector
from phema.services.api.events.schemas import Change
from phema.shared.catalog import Catalog, CatalogError
from phema.shared.catalog.doorbell import Bell

SHORTEST_PAUSE_SECONDS = 0.2
"""Two looks are at least this far apart, however often the doorbell rings."""
LONGEST_PAUSE_SECONDS = 15.0
"""A ring may get lost: the catalog is also looked at after this time."""
_WITHOUT_BELL_SECONDS = 2.0
"""Interval of looks where there is no doorbell, and pause after a failure."""
_SLICE_SECONDS = 1.0
"""How soon the thread ends after `stop`."""
RESYNC = Change(kind="resync", run_id=None)

log = logging.getLogger(__name__)


class ChangeWatch(threading.Thread):
    """Calls `publish` with changes until it is stopped. The first call, and each after an outage, is a resync."""

    def __init__(self, catalog: Catalog, publish: Callable[[Sequence[Change]], None]) -> None:
        super().__init__(name="changes", daemon=True)
        self._catalog, self._publish = catalog, publish
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Ask the thread to end. Returns at once."""
        self._stopping.set()

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._follow()
            except (CatalogError, OSError) as error:
                log.warning("live views wait for the catalog: %s", error)
                self._stopping.wait(_WITHOUT_BELL_SECONDS)

    def _follow(self) -> None:
        with self._bell() as bell:
            now = self._catalog.now()
            with self._catalog.transaction(read_only=True) as tx:
                detector = ChangeDetector(tx, now)
            self._publish([RESYNC])
            while self._wait(bell):
                now = self._catalog.now()
                with self._catalog.transaction(read_only=True) as tx:
                    changes = detector.look(tx, now)
                if changes:
                    self._publish(changes)

    @contextmanager
    def _bell(self) -> Iterator[Bell | None]:
        """The doorbell; None where there is none."""
        try:
            listening = self._catalog.listening_for_changes()
            bell = listening.__enter__()
        except OSError:
            yield None
            return
        try:
            yield bell
        finally:
            listening.__exit__(None, None, None)

    def _wait(self, bell: Bell | None) -> bool:
        """Wait for a ring, but not for too short or too long a time. False when the thread must end."""
        began = time.monotonic()
        longest = LONGEST_PAUSE_SECONDS if bell is not None else _WITHOUT_BELL_SECONDS
        while not self._stopping.is_set() and (left := began + longest - time.monotonic()) > 0:
            if bell is None:
                self._stopping.wait(left)
            elif select.select([bell.fileno()], [], [], min(left, _SLICE_SECONDS))[0] and bell.drain():
                break
        self._stopping.wait(max(0.0, began + SHORTEST_PAUSE_SECONDS - time.monotonic()))
        return not self._stopping.is_set()
