"""Pausing, extending and the log of events through the client and the command."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from phema.client.client import Client
from phema.client.display.views import rows_view
from phema.errors import Conflict, Refused
from phema.shared.catalog import JobKind
from phema.terminal.live_progress import _RunView
from phema.terminal.screen import Screen
from tests.phema.service import Service

Cli = Callable[..., tuple[int, str, str]]


def test_a_run_is_paused_extended_and_resumed(service: Service, client: Client, name: str) -> None:
    length = client.runs.create(name).total_images
    assert client.runs.pause(name).state == "paused"
    assert not client.runs.get(name).done
    assert name in [run.name for run in client.runs.list("paused")]
    assert client.runs.extend(name, 2 * length).total_images == 2 * length
    resumed = client.runs.resume(name)
    assert resumed.state == "queued"
    with service.catalog.transaction() as tx:
        job = tx.leases.claim([JobKind.TRAIN], owner="test", lease_seconds=60)
    assert job is not None
    assert client.runs.get(resumed).state == "starting"
    stops = client.runs.pause(resumed)
    assert stops.job is not None
    assert stops.job.pause_requested
    with pytest.raises(Conflict, match="is running; pause it, extend it, then resume it"):
        client.runs.extend(resumed, 4 * length)
    with service.catalog.transaction() as tx:
        tx.leases.stopped(job.id, job.fence)
    with pytest.raises(Refused, match="must be larger than"):
        client.runs.extend(resumed, length)
    events = client.runs.events(resumed)
    assert [event.kind for event in events] == [
        *("created", "paused", "extended", "resumed", "starting", "pause_requested", "paused"),
    ]
    assert events[2].details is not None
    assert events[2].details["total_images"] == [length, 2 * length]
    assert client.runs.events(resumed, limit=1) == events[:1]
    assert "pause_requested" in rows_view(events)
    assert repr(events[0]).endswith("created>")


def test_the_command(service: Service, client: Client, name: str, cli: Cli) -> None:
    length = client.runs.create(name).total_images
    assert cli("runs", "pause", name) == (0, f"{name} is paused at 0 images\n", "")
    assert name in cli("runs", "list", "--state", "paused")[1]
    code, out, _ = cli("runs", "extend", name, str(2 * length))
    paused = f"{name} is paused at 0 of {2 * length:,} images; continue it with: phema runs resume {name}\n"
    assert (code, out) == (0, paused)
    code, _, error = cli("runs", "extend", name, str(length))
    assert code == 2
    assert "must be larger than" in error
    assert cli("runs", "resume", name)[1] == f"{name} is queued at 0 images\n"
    with service.catalog.transaction() as tx:
        job = tx.leases.claim([JobKind.TRAIN], owner="test", lease_seconds=60)
        assert job is not None
        tx.leases.begin_work(job.id, job.fence)
    sentence = f"{name} stops after its next step; continue it with: phema runs resume {name}\n"
    assert cli("runs", "pause", name)[1] == sentence
    out = cli("runs", "events", name)[1]
    assert [line.split()[2] for line in out.splitlines()[1:]] == [
        *("created", "paused", "extended", "resumed", "starting", "running", "pause_requested"),
    ]
    assert f"total_images {length} -> {2 * length}" in out
    listed = json.loads(cli("runs", "events", name, "--limit", "1", "--json")[1])
    assert [event["kind"] for event in listed] == ["created"]
    shown = cli("runs", "show", name)[1]
    assert "pause_requested" in shown
    assert "created  " not in shown.partition("WHAT")[2], "the latest five"


def test_watching_says_that_a_run_is_paused(client: Client, name: str) -> None:
    client.runs.create(name)
    said: list[str] = []

    class Bar:
        def update(self, done: float, total: float | None, detail: str) -> None:
            said.append(detail)

    view = _RunView(client, Screen(), name)
    view.show(Bar(), client.runs.pause(name))  # type: ignore[arg-type]
    assert said == [f"paused; resume it with: phema runs resume {name}"]
