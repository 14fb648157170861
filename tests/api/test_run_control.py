"""`/v1/runs/{run}/pause`, `/extend` and `/event-log`; what resume and cancel do to a paused run."""

from __future__ import annotations

import pytest

from phema.shared.catalog import Job, JobKind
from phema.shared.recipes.presets import resolve
from tests.api import seed
from tests.api.http import Api, problem

CONFIG = {"total_images": 640, "batch_size": 64, "snapshot_every": 640, "checkpoint_every": 640, "status_every": 640}


def create(api: Api) -> str:
    body = {"name": "digits", "preset": "digits-tiny", "config": CONFIG}
    response = api.post("/v1/runs", body)
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


def claim(api: Api) -> Job:
    with api.catalog.transaction() as tx:
        job = tx.leases.claim([JobKind.TRAIN], owner="test", lease_seconds=60)
    assert job is not None
    return job


def end(api: Api) -> None:
    job = claim(api)
    with api.catalog.transaction() as tx:
        run = tx.runs.get("digits")
        tx.checkpoints.add(run_id=run.id, num_images=640, key=f"runs/{run.id}/c.pt", size=1, sha256="0" * 64)
        tx.runs.set_progress(run.id, 640)
        tx.leases.succeed(job.id, job.fence)


@pytest.mark.parametrize(("method", "verb"), [("POST", "pause"), ("POST", "extend"), ("GET", "event-log")])
def test_anonymous_gets_401_and_unknown_runs_404(guarded: Api, method: str, verb: str) -> None:
    seed.run(guarded.catalog)
    problem(guarded.anonymous(method, f"/v1/runs/digits/{verb}"), 401, "unauthorized")
    if method == "GET":
        answer = guarded.get(f"/v1/runs/nobody/{verb}")
    else:
        answer = guarded.post(f"/v1/runs/nobody/{verb}", {"total_images": 64} if verb == "extend" else None)
    problem(answer, 404, "not-found")


def test_a_run_shows_each_of_its_states(api: Api) -> None:
    create(api)

    def state() -> str:
        return str(api.get("/v1/runs/digits").json()["state"])

    def listed(state: str) -> int:
        return len(api.all("/v1/runs", state=state))

    assert state() == "queued"
    job = claim(api)
    assert (state(), listed("starting"), listed("running")) == ("starting", 1, 0)
    with api.catalog.transaction() as tx:
        tx.leases.begin_work(job.id, job.fence)
    assert (state(), listed("starting"), listed("running")) == ("running", 0, 1)
    paused = api.post("/v1/runs/digits/pause").json()
    assert (paused["state"], paused["job"]["pause_requested"]) == ("running", True)
    with api.catalog.transaction() as tx:
        tx.leases.stopped(job.id, job.fence)
    assert (state(), listed("paused")) == ("paused", 1)
    resumed = api.post("/v1/runs/digits/resume").json()
    assert (resumed["state"], resumed["job"]["id"]) == ("queued", job.id)
    assert api.post("/v1/runs/digits/pause").json()["state"] == "paused"
    assert api.post("/v1/runs/digits/cancel").json()["state"] == "cancelled"
    document = problem(api.post("/v1/runs/digits/pause"), 409, "conflict")
    expected = "run digits is cancelled; only a queued, starting or running run can be paused"
    assert document["detail"] == expected
    problem(api.get("/v1/runs?state=sleeping"), 422, "invalid")


def test_the_log_says_what_happened(api: Api) -> None:
    create(api)
    api.post("/v1/runs/digits/pause")
    api.post("/v1/runs/digits/resume")
    job = claim(api)
    with api.catalog.transaction() as tx:
        tx.leases.fail(job.id, job.fence, "It broke.", retry=False)
    page = api.get("/v1/runs/digits/event-log?limit=3").json()
    rest = api.get(f"/v1/runs/digits/event-log?cursor={page['next_cursor']}").json()
    assert rest["next_cursor"] is None
    events = page["items"] + rest["items"]
    assert [event["kind"] for event in events] == ["created", "paused", "resumed", "starting", "failed"]
    assert events[0]["details"] == {"total_images": 640}
    assert (events[-1]["reason"], events[-1]["attempt"], events[-1]["job_id"]) == ("It broke.", 1, job.id)
    assert events[-1]["at"].endswith("Z")
    text = api.get("/metrics").text
    assert 'phema_run_events{kind="paused"} 1.0' in text
    assert 'phema_run_events{kind="extended"} 0.0' in text


def test_a_succeeded_run_is_extended(api: Api) -> None:
    create(api)
    end(api)
    headers = {"Idempotency-Key": "longer"}
    extended = api.post("/v1/runs/digits/extend", {"total_images": 1280}, headers=headers).json()
    assert (extended["state"], extended["num_images"], extended["total_images"]) == ("queued", 640, 1280)
    expected = resolve("digits-tiny", {**CONFIG, "total_images": 1280})
    assert (extended["config"], extended["config_hash"]) == (expected.model_dump(mode="json"), expected.config_hash)
    assert api.post("/v1/runs/digits/extend", {"total_images": 1280}, headers=headers).json() == extended, "asked again"
    assert claim(api).id == extended["job"]["id"]


def test_a_continuous_evaluation_goes_on_with_the_run(api: Api) -> None:
    followed = {**CONFIG, "evaluation": {"every_snapshots": 1, "num_samples": 128, "num_steps": 4}}
    api.post("/v1/runs", {"name": "digits", "preset": "digits-tiny", "config": followed})
    end(api)
    with api.catalog.transaction() as tx:
        follow = tx.leases.claim([JobKind.FOLLOW], owner="test", lease_seconds=60)
        assert follow is not None
        tx.leases.succeed(follow.id, follow.fence)
    assert api.post("/v1/runs/digits/extend", {"total_images": 1280}).status_code == 200
    with api.catalog.transaction() as tx:
        again = tx.leases.claim([JobKind.FOLLOW], owner="test", lease_seconds=60)
    assert again is not None
    assert again.id != follow.id


@pytest.mark.parametrize(
    ("total_images", "words"),
    [
        (640, "total_images 640 must be larger than 640, the length of run digits"),
        (1300, "total_images 1300 is not a multiple of batch_size 64; the nearest is 1280"),
        (0, "total_images"),
    ],
)
def test_a_length_that_does_not_fit(api: Api, total_images: int, words: str) -> None:
    create(api)
    document = problem(api.post("/v1/runs/digits/extend", {"total_images": total_images}), 422, "invalid")
    assert words in document["errors"][0]["detail"]
    assert document["errors"][0]["field"] == "total_images"
    assert api.get("/v1/runs/digits").json()["total_images"] == 640


def test_a_running_run_is_not_extended(api: Api) -> None:
    create(api)
    claim(api)
    document = problem(api.post("/v1/runs/digits/extend", {"total_images": 1280}), 409, "conflict")
    assert document["detail"] == "run digits is running; pause it, extend it, then resume it"


def test_runs_of_other_loops_are_neither_paused_nor_extended(api: Api) -> None:
    api.post("/v1/runs/external", {"name": "mine", "config": {}})
    document = problem(api.post("/v1/runs/mine/pause"), 409, "conflict")
    assert document["detail"] == "run mine is external; only a run that phema trains can be paused"
    document = problem(api.post("/v1/runs/mine/extend", {"total_images": 64}), 409, "conflict")
    assert document["detail"] == "run mine is external; only a run that phema trains can be extended"
    kinds = [event["kind"] for event in api.get("/v1/runs/mine/event-log").json()["items"]]
    assert kinds == ["created"]
