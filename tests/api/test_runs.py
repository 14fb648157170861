"""`/v1/runs`."""

from __future__ import annotations

from typing import Any

import pytest

from phema.shared.catalog import JobKind, JobState
from phema.shared.recipes.presets import resolve
from tests.api import seed
from tests.api.http import Api, problem

DIGITS = {"name": "digits", "preset": "digits-tiny"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/runs"),
        ("GET", "/v1/runs"),
        ("GET", "/v1/runs/digits"),
        ("POST", "/v1/runs/digits/cancel"),
        ("POST", "/v1/runs/digits/resume"),
        ("GET", "/v1/runs/digits/metrics"),
    ],
)
def test_anonymous_gets_401(guarded: Api, method: str, path: str) -> None:
    seed.run(guarded.catalog)
    problem(guarded.anonymous(method, path), 401, "unauthorized")


def test_a_run_is_launched_with_its_job(api: Api) -> None:
    response = api.post("/v1/runs", {**DIGITS, "config": {"network": {"num_blocks": 2}, "seed": 7}})
    assert response.status_code == 201
    run = response.json()
    expected = resolve("digits-tiny", {"network": {"num_blocks": 2}, "seed": 7})
    assert run["config"] == expected.model_dump(mode="json")
    assert run["config_hash"] == expected.config_hash
    assert (run["name"], run["preset"], run["state"]) == ("digits", "digits-tiny", "queued")
    assert (run["num_images"], run["total_images"], run["error"]) == (0, expected.total_images, None)
    assert run["created_at"].endswith("Z")
    with api.catalog.transaction() as tx:
        job = tx.leases.claim([JobKind.TRAIN], owner="test", lease_seconds=60)
        assert job is not None
        assert (job.id, job.payload) == (run["job"]["id"], {"run_id": run["id"]})


def test_a_run_is_found_by_id_and_by_name(api: Api) -> None:
    created = api.post("/v1/runs", DIGITS).json()
    assert api.get(f"/v1/runs/{created['id']}").json() == created
    assert api.get("/v1/runs/digits").json() == created


def test_an_unknown_run_is_404(api: Api) -> None:
    for path in ("", "/metrics", "/snapshots", "/reconstructions"):
        assert "nobody" in problem(api.get(f"/v1/runs/nobody{path}"), 404, "not-found")["detail"]
    for verb in ("cancel", "resume"):
        problem(api.post(f"/v1/runs/nobody/{verb}"), 404, "not-found")
    problem(api.post("/v1/runs/nobody/reconstructions", {"sigma_rel": 0.1}), 404, "not-found")


def test_a_name_is_given_once(api: Api) -> None:
    api.post("/v1/runs", DIGITS)
    document = problem(api.post("/v1/runs", DIGITS), 409, "name-taken")
    assert document["detail"] == "name 'digits' is taken by another run; choose one that is free"
    assert len(api.all("/v1/runs")) == 1
    with api.catalog.transaction() as tx:
        assert len(tx.jobs.list().items) == 1


@pytest.mark.parametrize(
    ("body", "fields", "words"),
    [
        ({"preset": "digits-tiny"}, ["name"], ["name is missing"]),
        (
            {**DIGITS, "nmae": 1},
            ["nmae"],
            ["nmae is not known here; did you mean name? allowed: name, preset, dataset,"],
        ),
        ({**DIGITS, "preset": "digits-tin"}, ["preset"], ["'digits-tin' is unknown", "did you mean 'digits-tiny'"]),
        ({**DIGITS, "config": {"sed": 1}}, ["config.sed"], ["config.sed"]),
        ({**DIGITS, "config": {"network": {"depth": 1}}}, ["config.network.depth"], ["allowed: config, img_"]),
        (
            {**DIGITS, "config": {"learning_rat": 1}},
            ["config.learning_rat"],
            ["is not a field of the configuration; did you mean 'learning_rate'? allowed: network,"],
        ),
        ({**DIGITS, "config": {"preset": "x"}}, ["config.preset"], ["config.preset is given twice"]),
        ({**DIGITS, "config": {"num_workers": 3}}, ["config"], ["batch_size 64 is not divisible by num_workers 3"]),
        ({**DIGITS, "config": {"total_images": 100}}, ["config"], ["total_images 100 is not a multiple of", "128"]),
        ({**DIGITS, "config": {"ema_sigma_rels": [0.1, 0.5]}}, ["config.ema_sigma_rels.1"], ["less than 0.288", "0.5"]),
        ({**DIGITS, "config": {"ema_sigma_rels": [0.1, 0.1]}}, ["config.ema_sigma_rels"], ["names a sigma_rel twice"]),
        ({**DIGITS, "config": {"total_images": 64 * 10**30}}, ["config.total_images"], [str(2**53 - 1)]),
        (
            {**DIGITS, "preset": "edm2-img64-s"},
            ["config.dataset"],
            ["config.dataset.name is imagenet-64", "dataset.path must name"],
        ),
        (
            {**DIGITS, "preset": "edm2-img64-s", "config": {"dataset": {"name": "digits"}}},
            ["config.network.img_resolution", "config.network.img_channels", "config.network.label_dim"],
            ["config.network.img_resolution is 64", "digits need 8", "digits has 10 classes; use 10"],
        ),
        (
            {**DIGITS, "config": {"network": {"config": "F", "res_balance": 0.5}}},
            ["config.network"],
            ["res_balance 0.5 has no meaning in configuration F", "leave it at 0.3"],
        ),
        (
            {**DIGITS, "config": {"precision": "float16", "device": "cpu"}},
            ["config"],
            ["precision float16 needs a GPU and device is cpu"],
        ),
        (
            {**DIGITS, "config": {"network": {"label_dim": 5}}},
            ["config.network.label_dim"],
            ["network.label_dim is 5", "10 classes"],
        ),
        (
            {"name": "x", "held_out": 0.5, "config": {"preset": "y"}},
            ["config.preset", "preset", "held_out"],
            ["preset is missing; name a preset, or a dataset", "held_out is a share of dataset"],
        ),
        (
            {**DIGITS, "config": {"sed": 1, "num_workers": 3, "status_every": 3, "network": {"label_dim": 5}}},
            ["config.sed", "config"],
            ["config.sed is not a field", "num_workers 3; use a multiple of 3; status_every 3 is not a multiple"],
        ),
        (
            {**DIGITS, "config": {"sed": 1, "batch_size": "x", "network": {"label_dim": 5, "clip_act": -1}}},
            ["config.network.clip_act", "config.batch_size", "config.sed", "config.network.label_dim"],
            ["config.sed is not a field", "label_dim is 5"],
        ),
        ({**DIGITS, "name": "a b"}, ["name"], ['name "a b" must match']),
        ({**DIGITS, "name": "run-0123456789ab"}, ["name"], ["must not start with run-"]),
        ({**DIGITS, "name": "x" * 64}, ["name"], ["at most 63 characters"]),
        ({"name": 3, "preset": [], "config": 1}, ["name", "preset", "config"], ["name 3", "preset []", "config 1"]),
    ],
)
def test_what_is_wrong_is_refused_field_by_field(
    api: Api, body: dict[str, Any], fields: list[str], words: list[str]
) -> None:
    document = problem(api.post("/v1/runs", body), 422, "invalid")
    assert [error["field"] for error in document["errors"]] == fields
    assert {error["place"] for error in document["errors"]} == {"body"}
    for word in words:
        assert word in document["detail"]
    assert api.all("/v1/runs") == []


def test_runs_are_listed_newest_first_in_pages(api: Api) -> None:
    names = [f"run{i}" for i in range(5)]
    for name in names:
        api.post("/v1/runs", {**DIGITS, "name": name})
    first = api.get("/v1/runs", params={"limit": 2}).json()
    assert [run["name"] for run in first["items"]] == ["run4", "run3"]
    # What comes meanwhile shifts nothing.
    api.post("/v1/runs", {**DIGITS, "name": "late"})
    second = api.get("/v1/runs", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [run["name"] for run in second["items"]] == ["run2", "run1"]
    assert [run["name"] for run in api.all("/v1/runs", limit=2)] == ["late", *reversed(names)]


def test_runs_are_filtered_by_state(api: Api) -> None:
    seed.run(api.catalog, "a")
    seed.run(api.catalog, "b")
    api.post("/v1/runs/a/cancel")
    assert [run["name"] for run in api.all("/v1/runs", state="cancelled")] == ["a"]
    assert [run["name"] for run in api.all("/v1/runs", state="queued")] == ["b"]
    document = problem(api.get("/v1/runs", params={"state": "lost"}), 422, "invalid")
    assert document["errors"][0]["field"] == "state"
    allowed = "'queued', 'starting', 'running', 'paused', 'succeeded', 'failed' or 'cancelled'"
    assert allowed in document["detail"]


def test_runs_are_filtered_and_sorted(api: Api) -> None:
    for name, images in (("one", 640), ("two", 1280), ("Twofold", 64)):
        run = seed.run(api.catalog, name)
        with api.catalog.transaction() as tx:
            tx.runs.set_progress(run.id, images)
    api.post("/v1/runs/external", {"name": "outside"})
    assert [run["name"] for run in api.all("/v1/runs", name="two")] == ["Twofold", "two"]
    assert [run["name"] for run in api.all("/v1/runs", origin="external")] == ["outside"]
    assert len(api.all("/v1/runs", preset="digits-tiny", limit=1)) == 3
    by_images = api.all("/v1/runs", sort="images", limit=1)
    assert [run["name"] for run in by_images] == ["two", "one", "Twofold", "outside"]
    assert [run["name"] for run in api.all("/v1/runs", sort="progress", order="asc", limit=1)] == [
        run["name"] for run in reversed(by_images)
    ]
    for wrong in ({"sort": "size"}, {"order": "up"}, {"origin": "mars"}):
        document = problem(api.get("/v1/runs", params=wrong), 422, "invalid")
        assert document["errors"][0]["field"] == next(iter(wrong))
    cursor = api.get("/v1/runs", params={"sort": "name", "limit": 1}).json()["next_cursor"]
    problem(api.get("/v1/runs", params={"cursor": cursor}), 422, "invalid")


def test_a_queued_run_is_cancelled_at_once(api: Api) -> None:
    seed.run(api.catalog)
    for _ in range(2):
        run = api.post("/v1/runs/digits/cancel").json()
        assert (run["state"], run["job"]["cancel_requested"]) == ("cancelled", True)


def test_a_running_run_is_asked_to_stop(api: Api) -> None:
    seed.run(api.catalog)
    job = seed.claim(api.catalog, JobKind.TRAIN)
    run = api.post("/v1/runs/digits/cancel").json()
    assert (run["state"], run["job"]["state"], run["job"]["cancel_requested"]) == ("starting", "running", True)
    with api.catalog.transaction() as tx:
        assert tx.leases.heartbeat(job.id, job.fence, lease_seconds=60)


def test_an_ended_run_is_resumed_with_a_new_job(api: Api) -> None:
    first = seed.run(api.catalog).job_id
    api.post("/v1/runs/digits/cancel")
    resumed = api.post("/v1/runs/digits/resume").json()
    assert (resumed["state"], resumed["job"]["id"] != first) == ("queued", True)
    # A run that is under way stays as it is.
    assert api.post("/v1/runs/digits/resume").json()["job"]["id"] == resumed["job"]["id"]


def test_a_repeated_resume_does_not_start_the_run_again(api: Api) -> None:
    """Without its key, a repeat that arrives late would undo what the user did since."""
    seed.run(api.catalog)
    api.post("/v1/runs/digits/cancel")
    headers = {"Idempotency-Key": "resume-once"}
    first = api.post("/v1/runs/digits/resume", headers=headers)
    api.post("/v1/runs/digits/cancel")
    again = api.post("/v1/runs/digits/resume", headers=headers)
    assert (again.status_code, again.content) == (200, first.content)
    assert api.get("/v1/runs/digits").json()["state"] == "cancelled"


def test_progress_and_failure_are_shown(api: Api) -> None:
    run_id = seed.run(api.catalog).id
    job = seed.claim(api.catalog, JobKind.TRAIN)
    with api.catalog.transaction() as tx:
        tx.runs.set_progress(run_id, 6400)
        assert tx.leases.fail(job.id, job.fence, "the disk is full", retry=False) is JobState.FAILED
    run = api.get("/v1/runs/digits").json()
    assert (run["state"], run["num_images"], run["error"]) == ("failed", 6400, "the disk is full")


def test_history_is_followed_by_images_and_by_pages(api: Api) -> None:
    run_id = seed.run(api.catalog).id
    with api.catalog.transaction() as tx:
        for i in range(1, 6):
            tx.history.put(run_id, 64 * i, {"loss": 1 / i, "weight/enc/8/max": 1.0})
    rows = api.all("/v1/runs/digits/metrics", limit=2)
    assert [row["num_images"] for row in rows] == [64, 128, 192, 256, 320]
    problem(api.get("/v1/runs/digits/metrics", params={"cursor": "192"}), 422, "invalid")
    assert rows[2]["values"] == {"loss": 1 / 3, "weight/enc/8/max": 1.0}
    news = api.get("/v1/runs/digits/metrics", params={"after": 192}).json()
    assert [row["num_images"] for row in news["items"]] == [256, 320]
    assert news["next_cursor"] is None


def test_figures_that_are_not_finite_are_null(api: Api) -> None:
    run_id = seed.run(api.catalog).id
    with api.catalog.transaction() as tx:
        tx.history.put(run_id, 64, {"loss": float("nan"), "grad": float("inf"), "lr": 0.5})
    assert api.all("/v1/runs/digits/metrics")[0]["values"] == {"loss": None, "grad": None, "lr": 0.5}


def test_a_run_may_be_evaluated_while_it_trains(api: Api) -> None:
    body = {"name": "followed", "preset": "digits-tiny", "config": {"evaluation": {"every_snapshots": 2}}}
    run = api.post("/v1/runs", body).json()
    assert run["config"]["evaluation"]["every_snapshots"] == 2
    curve = api.get("/v1/runs/followed/progress-curve").json()
    assert (curve["state"], curve["points"], curve["stopped"]) == ("queued", [], None)
    assert (curve["job"]["kind"], curve["job"]["priority"]) == ("follow", 40)
    assert api.post("/v1/runs", {**body, "name": "plain", "config": {}}).status_code == 201
    plain = api.get("/v1/runs/plain/progress-curve").json()
    assert (plain["state"], plain["job"], plain["points"]) == (None, None, [])
    problem(api.get("/v1/runs/nobody/progress-curve"), 404, "not-found")
    wrong = {"name": "wrong", "preset": "digits-tiny", "config": {"evaluation": {"metrics": ["held_out_loss"]}}}
    wrong["config"]["dataset"] = {"held_out": 0}  # type: ignore[index]
    document = problem(api.post("/v1/runs", wrong), 422, "invalid")
    assert document["errors"][0]["field"] == "config.evaluation.metrics"
    api.post("/v1/runs/followed/cancel")
    api.post("/v1/runs/followed/resume")
    assert api.get("/v1/runs/followed/progress-curve").json()["job"]["id"] == curve["job"]["id"], "still under way"
