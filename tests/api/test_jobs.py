"""`/v1/jobs`."""

from __future__ import annotations

import pytest

from phema.shared.catalog import JobKind
from tests.api import seed
from tests.api.http import Api, problem
from tests.fixtures.catalog import only


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/jobs"), ("GET", "/v1/jobs/job-1"), ("POST", "/v1/jobs/job-1/cancel")]
)
@only("sqlite")
def test_anonymous_gets_401(guarded: Api, method: str, path: str) -> None:
    problem(guarded.anonymous(method, path), 401, "unauthorized")


def test_jobs_are_listed_and_filtered(api: Api) -> None:
    run = seed.trained(api.catalog, api.store)
    seed.run(api.catalog, "other")
    api.post("/v1/runs/digits/reconstructions", {"sigma_rel": 0.07})
    assert [job["kind"] for job in api.all("/v1/jobs", limit=1)] == ["reconstruct", "train", "train"]
    assert [job["kind"] for job in api.all("/v1/jobs", run="digits")] == ["reconstruct", "train"]
    assert [job["run_id"] for job in api.all("/v1/jobs", run=run.id, kind="train")] == [run.id]
    assert api.all("/v1/jobs", state="failed") == []
    problem(api.get("/v1/jobs", params={"run": "nobody"}), 422, "invalid")
    problem(api.get("/v1/jobs", params={"kind": "dance"}), 422, "invalid")


def test_a_job_shows_everything_that_was_tried(api: Api) -> None:
    seed.run(api.catalog)
    first = seed.claim(api.catalog, JobKind.TRAIN)
    with api.catalog.transaction() as tx:
        tx.leases.heartbeat(first.id, first.fence, lease_seconds=60, progress=0.25, message="epoch 1")
    running = api.get(f"/v1/jobs/{first.id}").json()
    assert (running["state"], running["progress"], running["message"]) == ("running", 0.25, "epoch 1")
    assert running["attempt_history"][0]["outcome"] is None
    with api.catalog.transaction() as tx:
        tx.leases.fail(first.id, first.fence, "worker died", retry=True)
    found = api.get(f"/v1/jobs/{first.id}").json()
    assert (found["state"], found["attempts"], found["error"]) == ("queued", 1, "worker died")
    attempt = found["attempt_history"][0]
    assert (attempt["number"], attempt["owner"], attempt["outcome"]) == (1, "test", "failed")
    assert attempt["submission_id"] == f"{first.id}-a1"
    assert attempt["ended_at"] >= attempt["started_at"]


def test_a_job_is_cancelled_as_its_state_allows(api: Api) -> None:
    seed.run(api.catalog, "queued")
    seed.run(api.catalog, "running")
    with api.catalog.transaction() as tx:
        queued, running = (tx.runs.get(name).job_id for name in ("queued", "running"))
    assert api.post(f"/v1/jobs/{queued}/cancel").json()["state"] == "cancelled"
    assert seed.claim(api.catalog, JobKind.TRAIN).id == running
    asked = api.post(f"/v1/jobs/{running}/cancel").json()
    assert (asked["state"], asked["cancel_requested"]) == ("running", True)
    finished = api.post(f"/v1/jobs/{queued}/cancel")
    assert (finished.status_code, finished.json()["state"]) == (200, "cancelled")


def test_an_unknown_job_is_404(api: Api) -> None:
    problem(api.get("/v1/jobs/job-nobody"), 404, "not-found")
    problem(api.post("/v1/jobs/job-nobody/cancel"), 404, "not-found")
