"""Hands the changes that one thread per process finds to all viewers."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from phema.services.api.events.change_watch import RESYNC, ChangeWatch
from phema.services.api.events.schemas import Change
from phema.shared.catalog import Catalog

_UNREAD = 1000
"""Events that wait for a slow viewer; with more, the viewer is told to read everything again."""


@dataclass(eq=False)
class _Viewer:
    run_id: str | None
    loop: asyncio.AbstractEventLoop
    queue: asyncio.Queue[Change | None] = field(default_factory=lambda: asyncio.Queue(_UNREAD))

    def put(self, changes: Sequence[Change | None]) -> None:
        """Called in the viewer's loop. None ends the stream."""
        for change in changes:
            if self.queue.full():
                while not self.queue.empty():
                    self.queue.get_nowait()
                self.queue.put_nowait(RESYNC)
            self.queue.put_nowait(change)

    def send(self, changes: Sequence[Change | None]) -> None:
        """Called from any thread."""
        with contextlib.suppress(RuntimeError):  # the viewer's loop has ended
            self.loop.call_soon_threadsafe(self.put, changes)


class EventStream:
    """Without viewers, no thread runs and the catalog is not asked. Threads may share it."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._lock = threading.Lock()
        self._viewers: list[_Viewer] = []
        self._watch: ChangeWatch | None = None
        self._watching = False
        self._closed = False

    async def follow(self, run_id: str | None) -> AsyncIterator[Change]:
        """A resync, then the changes of one run, or of everything. Ends when the stream is closed."""
        viewer = _Viewer(run_id, asyncio.get_running_loop())
        self._join(viewer)
        try:
            while (change := await viewer.queue.get()) is not None:
                yield change
        finally:
            self._leave(viewer)

    @property
    def closed(self) -> bool:
        """Whether the server shuts down, and streams end."""
        return self._closed

    def close(self) -> None:
        """End every stream, now and in future."""
        with self._lock:
            self._closed = True
            for viewer in self._viewers:
                viewer.send([None])
            self._stop()

    def _join(self, viewer: _Viewer) -> None:
        with self._lock:
            self._viewers.append(viewer)
            if self._closed:
                viewer.put([None])
            elif self._watch is None:
                self._watch = ChangeWatch(self._catalog, self._publish)
                self._watch.start()
            elif self._watching:
                viewer.put([RESYNC])

    def _leave(self, viewer: _Viewer) -> None:
        with self._lock:
            self._viewers.remove(viewer)
            if not self._viewers:
                self._stop()

    def _stop(self) -> None:
        if self._watch is not None:
            self._watch.stop()
        self._watch, self._watching = None, False

    def _publish(self, changes: Sequence[Change]) -> None:
        with self._lock:
            if threading.current_thread() is not self._watch:
                return  # stopped meanwhile: another thread may watch for the viewers of now
            self._watching = True
            for viewer in self._viewers:
                mine = [one for one in changes if viewer.run_id is None or one.run_id in (None, viewer.run_id)]
                if mine:
                    viewer.send(mine)
