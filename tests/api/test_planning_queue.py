"""Plans run in threads, a few at once; the event loop stays free, and too many are refused."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import pytest

from phema.services.api.bases import service
from phema.services.api.http.planning_queue import MOST_WAITING, PLANS_AT_ONCE, PlanningQueue
from phema.services.api.http.problems import Busy
from tests.api import seed
from tests.api.http import Api, problem
from tests.fixtures.catalog import only


def test_more_plans_than_may_wait_are_refused() -> None:
    queue, free, running = PlanningQueue(), threading.Event(), threading.Semaphore(0)
    most = 0
    lock, now = threading.Lock(), [0]
    results: list[int] = []

    def work() -> int:
        nonlocal most
        with lock:
            now[0] += 1
            most = max(most, now[0])
        running.release()
        free.wait()
        with lock:
            now[0] -= 1
        return 1

    async def ask() -> None:
        results.append(await queue.run(work))

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(PLANS_AT_ONCE + MOST_WAITING):
                tasks.start_soon(ask)
            for _ in range(PLANS_AT_ONCE):
                await anyio.to_thread.run_sync(running.acquire)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(Busy, match=f"{MOST_WAITING} plans are waiting"):
                await queue.run(work)
            free.set()

    anyio.run(main)
    assert (most, len(results)) == (PLANS_AT_ONCE, PLANS_AT_ONCE + MOST_WAITING)


@only("sqlite")
def test_a_full_queue_is_503_and_other_requests_are_answered(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plans are held up, because the real ones take a few milliseconds here."""
    run = seed.run(api.catalog)
    seed.snapshots(api.catalog, api.store, run.id)
    free, started = threading.Event(), threading.Semaphore(0)
    plan = service.plan

    def held_up(*arguments: Any) -> Any:
        started.release()
        free.wait()
        return plan(*arguments)

    monkeypatch.setattr(service, "plan", held_up)
    answers: list[int] = []

    def ask() -> None:
        answers.append(api.post("/v1/runs/digits/bases", {"plan_only": True}).status_code)

    threads = [threading.Thread(target=ask) for _ in range(PLANS_AT_ONCE + MOST_WAITING + 1)]
    try:
        for thread in threads:
            thread.start()
        for _ in range(PLANS_AT_ONCE):
            started.acquire()
        # The one too many is answered while all others wait; then so is everything else.
        while not answers:
            assert api.get("/v1/runs/digits").status_code == 200
        refused = api.post("/v1/runs/digits/retention", {"policy": "all"})
        assert "plans are waiting" in problem(refused, 503, "busy")["detail"]
        assert refused.headers["retry-after"] == "5"
    finally:
        free.set()
        for thread in threads:
            thread.join()
    assert sorted(answers) == [200] * (PLANS_AT_ONCE + MOST_WAITING) + [503]
