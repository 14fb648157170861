"""Uploads snapshots and checkpoints in the background, in order, and registers each after it is durable."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

from phema.shared.snapshots.errors import CorruptObject, StoreUnreachable
from phema.shared.snapshots.stores.hashed_bytes import Data, HashedBytes, hashed
from phema.shared.snapshots.stores.interface import ObjectInfo, ObjectStore

T = TypeVar("T")
Produce = Callable[[], tuple[str, Data | HashedBytes]]
"""Encodes an object: returns its key and its bytes. Runs in the uploader's thread; its tensors must not change."""
Register = Callable[[ObjectInfo], None]
"""Inserts the row of an object that is stored and verified. Runs in a thread of the uploader, in order. It must not
keep the tensors alive."""

PATIENCE_S = 60.0
"""Default time for which one object is tried again."""
MAX_UNREGISTERED = 1024
"""Default number of stored objects that may wait for their rows."""
_LONGEST_DELAY_S = 10.0
_WAIT_S = 1.0


@dataclass(frozen=True)
class UploadCounts:
    """Totals of an uploader. `pending` counts objects that were submitted and are not registered yet."""

    objects: int = 0
    bytes: int = 0
    seconds: float = 0.0
    retries: int = 0
    pending: int = 0
    waited_seconds: float = 0.0
    """Time that callers of `submit` waited because `max_pending` objects were pending."""


class BackgroundUploader:
    """Two threads: one encodes and stores objects, the other registers them, both in the order of submission.

    While only the catalog is away, objects are still stored. Their rows wait in memory, without the tensors, so that
    the caller goes on.

    Errors of the types in `transient` are retried with growing delays for up to `patience_s` per object. Any other
    error, and a transient one after that time, ends the uploader: it drops the remaining objects, and the next `submit`
    or `flush` raises the error. After `hurry`, storing is retried for a limited time only.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        max_pending: int = 2,
        max_unregistered: int = MAX_UNREGISTERED,
        patience_s: float = PATIENCE_S,
        first_delay_s: float = 0.5,
        transient: tuple[type[Exception], ...] = (StoreUnreachable, CorruptObject),
        on_retry: Callable[[Exception, float], None] | None = None,
        on_wait: Callable[[], None] | None = None,
    ) -> None:
        """
        Args:
            max_pending: objects that may wait for the store. They are in memory.
            max_unregistered: stored objects that may wait for their rows. With more, no further object is stored.
            on_retry: gets each transient error and the seconds until the next attempt, in a thread of the uploader.
            on_wait: called once per second while `submit` waits, in the thread that called `submit`.
        """
        if max_pending < 1 or max_unregistered < 1:
            raise ValueError(f"max_pending {max_pending} and max_unregistered {max_unregistered} must be at least 1")
        self._store, self._max_pending, self._max_unregistered = store, max_pending, max_unregistered
        self._patience_s, self._first_delay_s, self._transient = patience_s, first_delay_s, transient
        self._on_retry, self._on_wait = on_retry, on_wait
        self._jobs: deque[tuple[Produce, Register]] = deque()
        self._unstored = 0
        """Objects that were submitted and are not stored yet: those in `_jobs`, and one that is being stored."""
        self._stored: deque[tuple[ObjectInfo, Register]] = deque()
        self._unregistered = 0
        """Objects that are stored and have no row yet: those in `_stored`, and one that is being registered."""
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._store_until = math.inf
        """Monotonic time after which storing an object is not retried."""
        self._storing_ended = False
        self._failure: BaseException | None = None
        self._counts = UploadCounts()
        self._threads = (
            threading.Thread(target=self._store_all, name="snapshot-upload", daemon=True),
            threading.Thread(target=self._register_all, name="snapshot-register", daemon=True),
        )
        for thread in self._threads:
            thread.start()

    @property
    def counts(self) -> UploadCounts:
        with self._changed:
            return replace(self._counts, pending=self._unstored + self._unregistered)

    def submit(self, produce: Produce, register: Register) -> None:
        """Add one object to the queue. Waits while `max_pending` objects are not stored, which bounds their memory."""
        started = time.monotonic()
        with self._changed:
            while not self._changed.wait_for(self._has_room, _WAIT_S):
                if self._on_wait:
                    self._on_wait()
            self._raise_failure()
            if self._closed.is_set():
                raise RuntimeError("the uploader is closed")
            self._count(waited_seconds=time.monotonic() - started)
            self._unstored += 1
            self._jobs.append((produce, register))
            self._changed.notify_all()

    def hurry(self, seconds: float) -> None:
        """Retry storing for at most `seconds` from now, because the caller wants to stop. The first call counts.

        Rows of stored objects still wait for the catalog.
        """
        with self._changed:
            self._store_until = min(self._store_until, time.monotonic() + seconds)

    def check(self) -> None:
        """Raise the error that ended the uploader, if one did."""
        with self._changed:
            self._raise_failure()

    def flush(self) -> None:
        """Wait until every submitted object is durable and registered. Raises the error that prevented this."""
        with self._changed:
            self._changed.wait_for(lambda: self._failure or not self._unstored + self._unregistered)
            self._raise_failure()

    def close(self) -> None:
        """Finish the object in progress, register what is stored unless that fails, drop the others, and stop.

        Call `flush` first to keep all of them.
        """
        with self._changed:
            self._drop_jobs()
            self._closed.set()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.flush()
        finally:
            self.close()

    def _has_room(self) -> bool:
        return self._failure is not None or self._unstored < self._max_pending

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _count(self, **increments: float) -> None:
        self._counts = replace(self._counts, **{k: getattr(self._counts, k) + v for k, v in increments.items()})

    def _drop_jobs(self) -> None:
        self._unstored -= len(self._jobs)
        self._jobs.clear()

    def _fail(self, error: BaseException) -> None:
        """Keep the first error, which `submit` and `flush` raise, and store nothing more."""
        with self._changed:
            self._failure = self._failure or error
            self._drop_jobs()
            self._changed.notify_all()

    def _store_all(self) -> None:
        """Thread: store objects until the uploader is closed or fails."""
        while (job := self._next_job()) is not None:
            produce, register = job
            info = None
            try:
                info = self._store_one(*produce())
            except BaseException as error:
                self._fail(error)
            del job, produce  # they hold the tensors
            with self._changed:
                self._unstored -= 1
                if info is not None:
                    self._stored.append((info, register))
                    self._unregistered += 1
                self._changed.notify_all()
        with self._changed:
            self._storing_ended = True
            self._changed.notify_all()

    def _next_job(self) -> tuple[Produce, Register] | None:
        def ready() -> bool:
            has_job = bool(self._jobs) and len(self._stored) < self._max_unregistered
            return has_job or self._closed.is_set() or self._failure is not None

        with self._changed:
            self._changed.wait_for(ready)
            return self._jobs.popleft() if self._jobs else None

    def _register_all(self) -> None:
        """Thread: register what is stored, until the other thread has ended. After an error, register nothing more."""
        failed = False
        while (stored := self._next_stored()) is not None:
            info, register = stored
            try:
                if not failed:
                    self._retried(partial(register, info))
            except BaseException as error:
                failed = True
                self._fail(error)
            with self._changed:
                self._unregistered -= 1
                self._changed.notify_all()

    def _next_stored(self) -> tuple[ObjectInfo, Register] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._stored or self._storing_ended)
            if not self._stored:
                return None
            stored = self._stored.popleft()
            self._changed.notify_all()  # the other thread may wait for room
            return stored

    def _store_one(self, key: str, data: Data | HashedBytes) -> ObjectInfo:
        started = time.monotonic()
        content = hashed(data)
        info = self._retried(lambda: self._store.put(key, content), until=lambda: self._store_until)
        with self._changed:
            self._count(objects=1, bytes=info.size, seconds=time.monotonic() - started)
        return info

    def _retried(self, action: Callable[[], T], until: Callable[[], float] = lambda: math.inf) -> T:
        delay = self._first_delay_s
        failing_since: float | None = None
        while True:
            try:
                return action()
            except self._transient as error:
                now = time.monotonic()
                failing_since = now if failing_since is None else failing_since
                last = min(failing_since + self._patience_s, until())
                if now + delay > last or self._closed.is_set() or self._failure is not None:
                    raise
                with self._changed:
                    self._count(retries=1)
                if self._on_retry:
                    self._on_retry(error, delay)
                self._closed.wait(delay)
                delay = min(2 * delay, _LONGEST_DELAY_S)
