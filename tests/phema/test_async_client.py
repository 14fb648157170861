"""phema.AsyncClient: the synchronous client's methods, awaited; cancelled tasks leave no thread behind."""

from __future__ import annotations

import asyncio
import inspect
import threading
from typing import Any

import pytest

import phema
from phema import errors
from phema.client.client import Client
from phema.shared import catalog
from phema.shared.catalog import JobKind
from tests.phema.service import Service

GROUPS = [name for name in vars(Client("http://127.0.0.1:9")) if name not in ("url", "_transport")]


def public_methods(thing: Any) -> set[str]:
    return {name for name, _ in inspect.getmembers(type(thing), inspect.isfunction) if not name.startswith("_")}


def test_every_method_of_the_client_is_there_with_its_arguments() -> None:
    client, awaited = Client("http://127.0.0.1:9"), phema.AsyncClient("http://127.0.0.1:9")
    for one, other in [(client, awaited), *((getattr(client, name), getattr(awaited, name)) for name in GROUPS)]:
        assert public_methods(one) == public_methods(other)
        for name in public_methods(one):
            assert inspect.iscoroutinefunction(getattr(other, name))
            assert inspect.signature(getattr(one, name)) == inspect.signature(getattr(other, name))
            assert getattr(other, name).__doc__ == getattr(one, name).__doc__


def test_many_calls_at_once_and_progress_in_the_loop(service: Service, trained: catalog.Run) -> None:
    states: list[str] = []

    async def progress(job: Any) -> None:
        states.append(job.state)
        assert asyncio.get_running_loop() is not None
        if states == ["queued"]:
            await asyncio.to_thread(service.reconstruct)

    async def work() -> None:
        async with phema.AsyncClient() as client:
            runs, plan, presets = await asyncio.gather(
                client.runs.list(limit=1), client.plan(trained.name, 0.1), client.presets()
            )
            assert (runs[0].name, plan.num_images, "digits-tiny" in presets) == (trained.name, 25_600, True)
            [made] = await client.reconstruct(trained.name, 0.1, on_progress=progress)
            assert made.state == "succeeded"
            assert await client.reconstructions.wait(made) == made
            with pytest.raises(errors.NotFound, match="There is no run 'nobody-has-this-name'"):
                await client.runs.get("nobody-has-this-name")

    asyncio.run(work())
    assert states == ["queued", "succeeded"]


def test_a_cancelled_task_ends_its_thread(service: Service, name: str) -> None:
    """The run never ends; without the cancellation the waiting thread would stay."""
    seen = threading.Event()
    threads: list[threading.Thread] = []

    def watching(_run: Any) -> None:
        seen.set()

    async def work() -> None:
        async with phema.AsyncClient() as client:
            await client.runs.create(name)
            before = set(threading.enumerate())
            task = asyncio.create_task(client.runs.watch(name, watching))
            while not seen.is_set():
                await asyncio.sleep(0)
            threads.extend(set(threading.enumerate()) - before)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await client.runs.get(name)).state == "queued"

    asyncio.run(work())
    for thread in threads:
        thread.join(timeout=60)
    assert [thread for thread in threads if thread.is_alive()] == []
    assert service.claim(JobKind.TRAIN) is not None
