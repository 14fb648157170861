"""The notice that this process or its machine ends soon, upon which a training stores a checkpoint and stops."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable


class EndNotice:
    """Given by SIGTERM, or by `ask`, which every worker of a group must call equally often (see `Cancellation`)."""

    def __init__(self, ask: Callable[[], bool] = lambda: False) -> None:
        self._ask, self._given = ask, threading.Event()

    def listen(self) -> None:
        """Take SIGTERM as the notice from now on. Only in the main thread; Ray replaces the handler in `ray.init`."""
        signal.signal(signal.SIGTERM, lambda *_: self._given.set())

    def give(self) -> None:
        self._given.set()

    @property
    def given(self) -> bool:
        return self._given.is_set()

    def wait(self, seconds: float) -> bool:
        """Whether the notice was given within `seconds`."""
        return self._given.wait(seconds)

    def look(self) -> bool:
        """As `given`, after asking."""
        if not self.given and self._ask():
            self.give()
        return self.given
