"""`/v1/jobs/{job}/logs`, from a local store and from S3."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from phema.services.api.jobs import logs
from phema.shared.catalog import Job, JobKind, submission_id
from phema.shared.service_runtime.attempt_logs import AttemptLog
from phema.shared.settings import Settings
from tests.api import seed
from tests.api.http import Api, problem
from tests.fixtures.catalog import only

FIRST, MORE = "the workers start: σ\n", "trained\n"


def attempt(api: Api) -> tuple[Job, AttemptLog]:
    """An attempt that runs, and its log."""
    job = seed.claim(api.catalog, JobKind.TRAIN)
    return job, AttemptLog(api.store, str(job.run_id), submission_id(job.id, job.fence))


def end(api: Api, job: Job) -> None:
    with api.catalog.transaction() as tx:
        tx.leases.fail(job.id, job.fence, "worker died", retry=True)


@pytest.fixture(params=["local", "s3"])
def api_and_store(request: pytest.FixtureRequest, open_api: Callable[[Settings], Api], settings: Settings) -> Api:
    s3 = request.getfixturevalue("s3_settings") if request.param == "s3" else {}
    return open_api(settings.model_copy(update=s3))


@only("sqlite")
def test_logs_of_attempts_are_text(api_and_store: Api) -> None:
    api = api_and_store
    seed.run(api.catalog)
    job, log = attempt(api)
    path = f"/v1/jobs/{job.id}/logs"
    assert "has no log yet" in problem(api.get(path), 404, "not-found")["detail"]
    log.write(FIRST.encode())
    found = api.get(path)
    assert (found.text, found.headers["content-type"]) == (FIRST, "text/plain; charset=utf-8")
    log.complete((FIRST + MORE).encode())
    end(api, job)
    assert api.get(path, params={"attempt": 1}).text == FIRST + MORE
    assert api.get(path, params={"attempt": 1, "follow": True}).text == FIRST + MORE
    assert problem(api.get(path, params={"attempt": 2}), 404, "not-found")["detail"] == (
        f"attempt 2 of job {job.id} does not exist; there are attempts 1 to 1"
    )
    problem(api.get(path, params={"attempt": 0}), 422, "invalid")


@only("sqlite")
def test_a_log_that_does_not_exist_says_why(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    seed.trained(api.catalog, api.store)
    unknown = problem(api.get("/v1/jobs/job-0/logs"), 404, "not-found")
    assert "job-0" in unknown["detail"]
    api.post("/v1/runs/digits/reconstructions", {"sigma_rel": 0.07})
    (other,) = api.all("/v1/jobs", kind="reconstruct")
    assert "only attempts of kind train" in api.get(f"/v1/jobs/{other['id']}/logs").json()["detail"]
    queued = seed.run(api.catalog, "queued")
    assert "no attempt has begun" in api.get(f"/v1/jobs/{queued.job_id}/logs").json()["detail"]
    monkeypatch.setattr(logs, "KEEPING_SECONDS", 0.0)
    job, _ = attempt(api)
    end(api, job)
    lost = api.get(f"/v1/jobs/{job.id}/logs", params={"follow": True})
    assert "was not kept" in problem(lost, 404, "not-found")["detail"]


def test_a_log_is_followed_until_it_is_complete(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The follower comes before the first line, and leaves with the last one."""
    monkeypatch.setattr(logs, "POLL_SECONDS", 0.02)
    seed.run(api.catalog)
    job, log = attempt(api)
    looked = threading.Event()
    read = AttemptLog.read

    def seen(self: AttemptLog) -> Any:
        looked.set()
        return read(self)

    monkeypatch.setattr(AttemptLog, "read", seen)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(api.get, f"/v1/jobs/{job.id}/logs", params={"follow": True})
        for count in (1, 2):
            assert looked.wait(60)
            looked.clear()
            log.write((FIRST * count).encode())
        assert looked.wait(60)
        end(api, job)
        assert not answer.done()
        log.complete((FIRST * 2 + MORE).encode())
        assert answer.result(60).text == FIRST * 2 + MORE


def test_a_follower_does_not_wait_for_a_log_that_nobody_will_complete(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed.run(api.catalog)
    job, log = attempt(api)
    log.write(FIRST.encode())
    end(api, job)
    monkeypatch.setattr(logs, "KEEPING_SECONDS", 0.0)
    assert api.get(f"/v1/jobs/{job.id}/logs", params={"follow": True}).text == FIRST
