"""The client asks often at first, and every half second after a few seconds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from phema.client import polling


def test_short_jobs_are_noticed_soon_and_long_ones_asked_about_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    now, pauses = 0.0, []

    def pause(seconds: float) -> None:
        nonlocal now
        now += seconds
        pauses.append(seconds)

    monkeypatch.setattr(polling, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(polling, "pause", pause)
    read: Any = lambda: SimpleNamespace(done=now > 60)  # noqa: E731
    polling.poll(read, None, None, polling.POLL_SECONDS, "job")
    assert pauses[0] == polling.FIRST_PAUSE_SECONDS
    assert pauses == sorted(pauses)
    assert pauses[-1] == polling.POLL_SECONDS
    assert len(pauses) < 160
