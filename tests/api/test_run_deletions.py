"""`DELETE /v1/runs/{run}` and `POST /v1/runs/{run}/restore`."""

from __future__ import annotations

from typing import Any

import pytest

from phema.services.phema_worker.deletion.delete_run import RunDeletion
from phema.shared.catalog import EventKind, JobKind, JobState, Run
from phema.shared.recipes.evaluation_recipe import EvaluationRecipe
from tests.api import promotable, seed
from tests.api.http import Api, problem

PATH = "/v1/runs/digits"


@pytest.fixture
def run(api: Api) -> Run:
    """An ended run with 16 snapshots."""
    return ended(api, "digits")


def ended(api: Api, name: str) -> Run:
    created = seed.run(api.catalog, name)
    job = seed.claim(api.catalog, JobKind.TRAIN)
    with api.catalog.transaction() as tx:
        tx.leases.succeed(job.id, job.fence, {})
    seed.snapshots(api.catalog, api.store, created.id)
    return created


def delete(api: Api, status: int = 202, **params: Any) -> Any:
    answer = api.request("DELETE", PATH, params=params)
    assert answer.status_code == status, answer.text
    return answer.json()


def work(api: Api) -> None:
    """Do the due deletion as a worker would."""
    job = seed.claim(api.catalog, JobKind.DELETE)
    end = RunDeletion(api.catalog, api.store, job).perform()
    with api.catalog.transaction() as tx:
        assert end(tx) is JobState.SUCCEEDED


def test_a_dry_run_says_what_would_go_and_changes_nothing(api: Api, run: Run) -> None:
    accepted = api.post(f"{PATH}/reconstructions", {"sigma_rel": 0.07}).json()
    api.store.put(f"logs/{run.id}/a1.log", b"four")
    found = delete(api, 200, dry_run=True)
    assert found["stored"] == [
        {"kind": "snapshots", "objects": 16, "bytes": 16 * 64},
        {"kind": "other", "objects": 1, "bytes": 4},
    ]
    assert found["bytes"] == 16 * 64 + 4
    assert found["results"] == {"snapshots": 16, "reconstructions": 1}
    assert [job["id"] for job in found["cancelled_jobs"]] == [accepted["job"]["id"]]
    assert (found["refused"], found["job"], found["dry_run"]) == ([], None, True)
    assert api.get(PATH).json()["delete_at"] is None
    assert api.get(f"/v1/jobs/{accepted['job']['id']}").json()["state"] == "queued"


def test_a_requested_deletion_stops_work_and_can_be_withdrawn(api: Api, run: Run) -> None:
    accepted = api.post(f"{PATH}/reconstructions", {"sigma_rel": 0.07}).json()
    answer = delete(api, grace_hours=1)
    assert answer["job"]["state"] == "queued"
    shown = api.get(PATH).json()
    assert shown["delete_at"] == answer["delete_at"]
    cancelled = api.get(f"/v1/jobs/{accepted['job']['id']}").json()
    assert (cancelled["state"], cancelled["error"]) == ("cancelled", "Run digits will be deleted.")
    for path, body in (
        (f"{PATH}/reconstructions", {"sigma_rel": 0.07}),
        (f"{PATH}/bases", {}),
        ("/v1/sweeps", {"run": "digits", "sigma_rel": [0.1]}),
        (f"{PATH}/retention", {"policy": "thin", "dry_run": False}),
    ):
        detail = problem(api.post(path, body), 409, "run-will-be-deleted")["detail"]
        assert "Run digits will be deleted at 20" in detail
    with api.catalog.transaction() as tx:
        assert tx.leases.claim([JobKind.DELETE], owner="test", lease_seconds=60) is None, "not before its time"
    problem(api.post(f"/v1/jobs/{answer['job']['id']}/cancel"), 409, "deletion-refused")
    assert api.post(f"{PATH}/restore").json()["delete_at"] is None
    assert api.get(f"/v1/jobs/{answer['job']['id']}").json()["state"] == "cancelled"
    assert api.post(f"{PATH}/reconstructions", {"sigma_rel": 0.07}).status_code == 202
    with api.catalog.transaction() as tx:
        kinds = [event.kind for event in tx.run_events.list(run.id).items]
    assert kinds[-2:] == [EventKind.DELETE_REQUESTED, EventKind.RESTORED]
    assert api.post(f"{PATH}/restore").status_code == 200, "nothing is left to withdraw"


def test_a_repeated_request_sets_the_time_anew(api: Api, run: Run) -> None:
    first, second = delete(api), delete(api, grace_hours=0)
    assert first["job"]["id"] == second["job"]["id"]
    assert second["delete_at"] < first["delete_at"]
    work(api)
    gone = problem(api.get(f"/v1/runs/{run.id}"), 410, "run-deleted")
    assert f"Run digits ({run.id}) was deleted at 20" in gone["detail"]
    problem(api.get(PATH), 410, "run-deleted")
    problem(api.post(f"{PATH}/restore"), 410, "run-deleted")
    assert api.all("/v1/runs") == []
    assert api.get(f"/v1/jobs/{first['job']['id']}").json()["state"] == "succeeded", "jobs stay as history"
    again = api.post("/v1/runs", {"name": "digits", "preset": "digits-tiny"})
    assert again.status_code == 201
    assert api.get(PATH).json()["id"] == again.json()["id"]


def test_a_begun_deletion_cannot_be_withdrawn(api: Api, run: Run) -> None:
    delete(api, grace_hours=0)
    job = seed.claim(api.catalog, JobKind.DELETE)
    for _ in range(2):
        detail = problem(api.post(f"{PATH}/restore"), 409, "deletion-refused")["detail"]
        assert detail == "run digits cannot be restored: its deletion has begun"
        with api.catalog.transaction() as tx:  # now again in the queue, as after a crash
            if not tx.jobs.get(job.id).state.terminal and tx.jobs.get(job.id).state is JobState.RUNNING:
                tx.leases.release(job.id, job.fence)


def test_a_queued_or_paused_run_is_cancelled_and_a_running_one_is_refused(api: Api) -> None:
    seed.run(api.catalog)
    job = seed.claim(api.catalog, JobKind.TRAIN)
    assert delete(api, 200, dry_run=True)["refused"] == ["run digits is starting; cancel it first"]
    problem(api.request("DELETE", PATH), 409, "deletion-refused")
    with api.catalog.transaction() as tx:
        tx.leases.release(job.id, job.fence)
    delete(api)
    assert api.get(PATH).json()["state"] == "cancelled"
    problem(api.post(f"{PATH}/resume"), 409, "run-will-be-deleted")
    open_run = api.post("/v1/runs/external", {"name": "mine", "config": {}}).json()
    detail = problem(api.request("DELETE", f"/v1/runs/{open_run['id']}"), 409, "deletion-refused")["detail"]
    assert detail == "run mine is running; finish or cancel it first"
    api.post("/v1/runs/mine/finish")
    assert api.request("DELETE", "/v1/runs/mine").status_code == 202
    problem(api.post("/v1/runs/mine/resume"), 409, "run-will-be-deleted")


def test_a_promoted_model_keeps_its_run_unless_it_goes_too(api: Api, run: Run) -> None:
    weights = promotable.weights(api)
    model = api.post("/v1/models", {"name": "best", "reconstruction_id": weights.id}).json()
    detail = problem(api.request("DELETE", PATH), 409, "deletion-refused")["detail"]
    assert "model best:1 was promoted from run digits" in detail
    delete(api, grace_hours=0, models=True)
    problem(api.post("/v1/models", {"name": "other", "reconstruction_id": weights.id}), 409, "run-will-be-deleted")
    work(api)
    problem(api.get("/v1/models/best"), 404, "not-found")
    assert [info.key for info in api.store.list()] == [f"deleted/{run.id}.json"]
    assert model["id"] not in str(api.get("/v1/models").json())


def test_unfinished_work_of_another_run_keeps_its_guide(api: Api, run: Run) -> None:
    guide = seed.reconstruction(api.catalog, api.store, run.id)
    other = ended(api, "other")
    subject = seed.reconstruction(api.catalog, api.store, other.id)
    with api.catalog.transaction() as tx:
        recipe = EvaluationRecipe(num_samples=64, num_steps=4, guidance=2.0, guide_id=guide.id).document()
        row, _ = tx.evaluations.find_or_create(run_id=other.id, reconstruction_id=subject.id, recipe=recipe)
        job, _ = tx.jobs.enqueue(
            JobKind.EVALUATE, payload={"evaluation_id": row.id}, content_key="guided", run_id=other.id
        )
        tx.evaluations.assign([row.id], job.id)
    detail = problem(api.request("DELETE", PATH), 409, "deletion-refused")["detail"]
    assert detail == f"the evaluate job {job.id} of run other needs run digits; wait for it or cancel it"
    seed.finish_evaluation(api.catalog, api.store, {"fid": 1.0})
    delete(api, grace_hours=0)
    work(api)
    assert api.get(f"/v1/evaluations/{row.id}").json()["figures"] == {"fid": 1.0}, "it keeps its figures"
    assert api.get("/v1/analyses/ema-length?run=other&figure=fid").status_code in (200, 409)


def test_wrong_requests(api: Api, run: Run) -> None:
    problem(api.request("DELETE", "/v1/runs/nobody"), 404, "not-found")
    problem(api.request("DELETE", PATH, params={"grace_hours": -1}), 422, "invalid")
    problem(api.request("DELETE", PATH, params={"now": "yes"}), 422, "invalid")
