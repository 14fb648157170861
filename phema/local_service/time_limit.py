"""Run several functions at the same time and give up on those that take too long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")


def results_within(seconds: float, functions: Mapping[str, Callable[[], T]]) -> dict[str, T]:
    """Results by name. Functions that have not returned after `seconds` are missing.

    Each function runs in a daemon thread, which goes on after the time limit and does not keep the process from ending.
    Raises what a function raises.
    """
    results: dict[str, T] = {}
    errors: list[BaseException] = []

    def run(name: str, function: Callable[[], T]) -> None:
        try:
            results[name] = function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=one, name=one[0], daemon=True) for one in functions.items()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if errors:
        raise errors[0]
    return dict(results)
