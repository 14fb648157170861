"""Uploads snapshots and checkpoints in a background thread, in order, and registers each after it is durable."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self, TypeVar

from phema.shared.snapshots.errors import CorruptObject, StoreUnreachable
from phema.shared.snapshots.stores.hashed_bytes import Data, HashedBytes, hashed
from phema.shared.snapshots.stores.interface import ObjectInfo, ObjectStore

T = TypeVar("T")
Produce = Callable[[], tuple[str, Data | HashedBytes]]
"""Encodes an object: returns its key and its bytes. Runs in the uploader's thread; its tensors must not change."""
Register = Callable[[ObjectInfo], None]
"""Inserts the row of an object that is stored and verified. Runs in the uploader's thread."""

_LONGEST_DELAY_S = 30.0
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
    """One thread that encodes, stores and registers objects in the order in which they were submitted.

    Errors of the types in `transient` are retried with growing delays, up to `attempts` attempts. Any other error, and
    the last transient one, ends the uploader: it drops the remaining objects, and the next `submit` or `flush` raises
    the error.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        max_pending: int = 2,
        attempts: int = 8,
        first_delay_s: float = 0.5,
        transient: tuple[type[Exception], ...] = (StoreUnreachable, CorruptObject),
        on_retry: Callable[[Exception, float], None] | None = None,
        on_wait: Callable[[], None] | None = None,
    ) -> None:
        """`on_retry` gets each transient error and the seconds until the next attempt, in the uploader's thread.

        `on_wait` is called once per second while `submit` waits, in the thread that called `submit`.
        """
        if max_pending < 1 or attempts < 1:
            raise ValueError(f"max_pending {max_pending} and attempts {attempts} must be at least 1")
        self._store, self._max_pending = store, max_pending
        self._attempts, self._first_delay_s, self._transient = attempts, first_delay_s, transient
        self._on_retry, self._on_wait = on_retry, on_wait
        self._jobs: deque[tuple[Produce, Register]] = deque()
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._failure: BaseException | None = None
        self._counts = UploadCounts()
        self._thread = threading.Thread(target=self._run, name="snapshot-upload", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> UploadCounts:
        with self._changed:
            return self._counts

    def submit(self, produce: Produce, register: Register) -> None:
        """Add one object to the queue. Waits while `max_pending` objects are pending, which bounds their memory."""
        started = time.monotonic()
        with self._changed:
            while not self._changed.wait_for(self._has_room, _WAIT_S):
                if self._on_wait:
                    self._on_wait()
            self._raise_failure()
            if self._closed.is_set():
                raise RuntimeError("the uploader is closed")
            self._count(pending=1, waited_seconds=time.monotonic() - started)
            self._jobs.append((produce, register))
            self._changed.notify_all()

    def check(self) -> None:
        """Raise the error that ended the uploader, if one did."""
        with self._changed:
            self._raise_failure()

    def flush(self) -> None:
        """Wait until every submitted object is durable and registered. Raises the error that prevented this."""
        with self._changed:
            self._changed.wait_for(lambda: self._failure or not self._counts.pending)
            self._raise_failure()

    def close(self) -> None:
        """Finish the object in progress, drop the others, and stop. Call `flush` first to keep all of them."""
        with self._changed:
            self._count(pending=-len(self._jobs))
            self._jobs.clear()
            self._closed.set()
            self._changed.notify_all()
        self._thread.join()

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
        return self._failure is not None or self._counts.pending < self._max_pending

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _count(self, **increments: float) -> None:
        self._counts = replace(self._counts, **{k: getattr(self._counts, k) + v for k, v in increments.items()})

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._closed.is_set())
                if not self._jobs:
                    return
                produce, register = self._jobs.popleft()
            try:
                self._process(produce, register)
            except BaseException as error:  # raised again in the thread that calls `submit` or `flush`
                with self._changed:
                    self._failure = error
                    self._count(pending=-1 - len(self._jobs))
                    self._jobs.clear()
                    self._changed.notify_all()
                return
            del produce, register  # they hold the tensors
            with self._changed:
                self._count(pending=-1)
                self._changed.notify_all()

    def _process(self, produce: Produce, register: Register) -> None:
        info = self._store_one(*produce())
        self._retried(lambda: register(info))

    def _store_one(self, key: str, data: Data | HashedBytes) -> ObjectInfo:
        started = time.monotonic()
        content = hashed(data)
        info = self._retried(lambda: self._store.put(key, content))
        with self._changed:
            self._count(objects=1, bytes=info.size, seconds=time.monotonic() - started)
        return info

    def _retried(self, action: Callable[[], T]) -> T:
        delay = self._first_delay_s
        for attempt in range(1, self._attempts + 1):
            try:
                return action()
            except self._transient as error:
                if attempt == self._attempts or self._closed.is_set():
                    raise
                with self._changed:
                    self._count(retries=1)
                if self._on_retry:
                    self._on_retry(error, delay)
                self._closed.wait(delay)
                delay = min(2 * delay, _LONGEST_DELAY_S)
        raise AssertionError("unreachable: the last attempt returns or raises")
