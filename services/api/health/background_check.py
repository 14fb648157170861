"""A question asked in a thread of its own: who wants the answer waits for as long as suits him."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Generic, TypeVar

T = TypeVar("T")


class BackgroundCheck(Generic[T]):
    """Asks one question at a time; whoever comes while it is being asked waits for the same answer. Thread-safe."""

    def __init__(self, name: str, question: Callable[[], T]) -> None:
        self._name, self._question = name, question
        self._lock = threading.Lock()
        self._pending: Future[T] | None = None
        self._asked_at = 0.0

    def ask(self) -> Future[T]:
        """The answer to come: of the question that is being asked, or of one that is asked now."""
        with self._lock:
            if self._pending is None or self._pending.done():
                self._pending, self._asked_at = Future(), time.monotonic()
                # A thread that hangs must not keep the process from ending.
                threading.Thread(target=self._run, args=[self._pending], name=self._name, daemon=True).start()
            return self._pending

    def answer(self, within_s: float) -> T | None:
        """The answer, if it comes within so many seconds of the asking, which may be over. Raises what asking raised.

        So one question that gets no answer makes nobody wait but the first.
        """
        pending = self.ask()
        wait([pending], max(self._asked_at + within_s - time.monotonic(), 0.0))
        return pending.result() if pending.done() else None

    @property
    def overdue_s(self) -> float:
        """For how long the question that is being asked has had no answer; 0 when none is being asked."""
        with self._lock:
            if self._pending is None or self._pending.done():
                return 0.0
            return time.monotonic() - self._asked_at

    def _run(self, pending: Future[T]) -> None:
        try:
            answer = self._question()
        except BaseException as error:  # belongs to whoever waits
            pending.set_exception(error)
        else:
            pending.set_result(answer)
