"""The actors of a worker that are ready, which previews borrow from the slots that own them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any


class WarmActors:
    """Actors by the slot that owns them, the oldest first. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._actors: dict[Hashable, Any] = {}
        self._borrowed: Counter[Hashable] = Counter()

    def add(self, slot: Hashable, actor: Any) -> None:
        """The slot's actor is ready."""
        with self._lock:
            self._actors[slot] = actor

    def remove(self, slot: Hashable) -> None:
        """The slot has no actor any more."""
        with self._lock:
            self._actors.pop(slot, None)

    def has(self, slot: Hashable) -> bool:
        """False once the actor of the slot was given up, by its owner or by a borrower."""
        with self._lock:
            return slot in self._actors

    def is_borrowed(self, slot: Hashable) -> bool:
        with self._lock:
            return self._borrowed[slot] > 0

    @property
    def any(self) -> bool:
        """Whether there is an actor to borrow."""
        with self._lock:
            return bool(self._actors)

    @contextmanager
    def borrowed(self) -> Iterator[tuple[Hashable, Any] | None]:
        """Yields the oldest actor with its slot, always the same as long as it lives: it knows the latest inputs. None
        if there is no actor."""
        with self._lock:
            found = next(iter(self._actors.items()), None)
            if found is not None:
                self._borrowed[found[0]] += 1
        try:
            yield found
        finally:
            if found is not None:
                with self._lock:
                    self._borrowed[found[0]] -= 1
