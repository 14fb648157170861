"""`/v1/previews`: pictures of averages whose weights are not stored."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from phema.shared.catalog import JobKind, Run
from phema.shared.edm2.networks.costs import costs
from phema.shared.recipes.run_config import RunConfig
from phema.shared.recipes.sample_request import SampleRequest
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.object_keys import preview_key
from phema.shared.submissions import previews
from tests.api import seed
from tests.api.http import Api, problem
from tests.fixtures.catalog import only

PATH = "/v1/runs/digits/previews"
SPEED = {"gflops": 10.0, "draw_seconds": 2.0, "bytes_read": 640, "read_seconds": 0.5}


@pytest.fixture
def run(api: Api) -> Run:
    """A finished run with 16 snapshots."""
    trained = seed.trained(api.catalog, api.store)
    job = seed.claim(api.catalog, JobKind.TRAIN)
    with api.catalog.transaction() as tx:
        tx.leases.succeed(job.id, job.fence, {})
    return trained


def finish(api: Api, data: bytes = b"pictures") -> str:
    """Do the most urgent job, which is a preview, as a worker would; returns the preview's id."""
    with api.catalog.transaction() as tx:
        job = tx.leases.claim(list(JobKind), owner="test", lease_seconds=60)
    assert job is not None
    assert job.kind is JobKind.PREVIEW
    identity = str(job.payload["preview_id"])
    info = api.store.put(preview_key(identity, f"{job.id}-1"), data)
    result = {"key": info.key, "size": info.size, "sha256": hashlib.sha256(data).hexdigest(), **SPEED}
    with api.catalog.transaction() as tx:
        tx.previews.complete(identity, result)
        tx.leases.succeed(job.id, job.fence, {})
    return identity


@pytest.mark.parametrize(
    ("method", "path"), [("POST", PATH), ("GET", "/v1/previews/prv-1"), ("GET", "/v1/previews/prv-1/download")]
)
@only("sqlite")
def test_anonymous_gets_401(guarded: Api, method: str, path: str) -> None:
    problem(guarded.anonymous(method, path), 401, "unauthorized")


def test_a_preview_is_drawn_before_everything_else_and_once(api: Api, run: Run) -> None:
    api.post("/v1/runs/digits/reconstructions", {"sigma_rel": 0.2})
    body = {"sigma_rel": 0.08, "seeds": "0-3", "class_label": 3, "num_steps": 8, "columns": 4}
    response = api.post(PATH, body)
    assert response.status_code == 202
    asked = response.json()
    assert (asked["state"], asked["label"], asked["sigma_rel"], asked["num_images"]) == ("queued", "0.08", 0.08, 25_600)
    drawn = SampleRequest(seeds=(0, 1, 2, 3), class_label=3, num_steps=8, columns=4)
    assert asked["request"] == drawn.model_dump(mode="json")
    assert 0 < asked["predicted_error"] < 3e-3
    problem(api.get(f"/v1/previews/{asked['id']}/download"), 409, "not-finished")
    assert api.post(PATH, {**body, "seeds": [0, 1, 2, 3]}).json()["id"] == asked["id"]
    assert finish(api) == asked["id"]
    again = api.post(PATH, {**body, "num_images": 25_600})
    assert (again.status_code, again.json()["id"], again.json()["size"]) == (200, asked["id"], 8)
    file = api.get(f"/v1/previews/{asked['id']}/download")
    assert (file.content, file.headers["content-type"]) == (b"pictures", "image/png")
    assert file.headers["etag"] == f'"{again.json()["sha256"]}"'
    assert "immutable" in file.headers["cache-control"]
    for other in ({"sigma_rel": 0.09}, {"seeds": "0-4"}, {"num_steps": 9}, {"num_images": 3200}, {"tolerance": None}):
        assert api.post(PATH, body | other).json()["id"] != asked["id"]


def test_jobs_of_previews_are_cancelled_by_themselves_and_left_out_of_lists(api: Api, run: Run) -> None:
    first = api.post(PATH, {"sigma_rel": 0.08}).json()
    assert [job["kind"] for job in api.get("/v1/jobs").json()["items"]] == ["train"]
    assert [job["id"] for job in api.get("/v1/jobs?kind=preview").json()["items"]] == [first["job_id"]]
    assert api.post(f"/v1/jobs/{first['job_id']}/cancel").json()["state"] == "cancelled"
    assert api.get(f"/v1/previews/{first['id']}").json()["state"] == "cancelled"
    again = api.post(PATH, {"sigma_rel": 0.08}).json()
    assert (again["id"], again["state"]) == (first["id"], "queued")
    assert again["job_id"] != first["job_id"]
    assert finish(api) == first["id"]


@only("sqlite")
def test_the_plan_says_how_long_it_takes(api: Api, run: Run) -> None:
    body = {"sigma_rel": 0.08, "num_steps": 8, "plan_only": True}
    found = api.post(PATH, body)
    assert found.status_code == 200
    network = costs(RunConfig.model_validate(run.config).network)
    plan = found.json()
    assert (plan["seconds"], plan["large"], plan["parameters"]) == (None, False, network.num_parameters)
    tolerant = api.post("/v1/runs/digits/reconstructions", {"sigma_rel": 0.08, "tolerance": 3e-3, "plan_only": True})
    assert plan["plan"] == tolerant.json()
    api.post(PATH, {"sigma_rel": 0.2})
    finish(api)
    plan = api.post(PATH, body).json()
    drawing = 16 * 15 * network.gflops / 5.0
    assert plan["seconds"] == pytest.approx(drawing + plan["plan"]["bytes_to_read"] / 1280)
    assert plan["large"] is (drawing > 2.0)
    assert api.post(PATH, {**body, "seeds": "0-63", "num_steps": 1000}).json()["large"] is True


def test_only_the_newest_are_kept(api: Api, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previews, "KEPT", 2)
    first = api.post(PATH, {"sigma_rel": 0.08}).json()["id"]
    finish(api, b"first")
    waiting = api.post(PATH, {"sigma_rel": 0.09}).json()["id"]
    api.post(PATH, {"sigma_rel": 0.10})
    with api.catalog.transaction(read_only=True) as tx:
        keys = tx.deletions.keys()
    (key,) = (info.key for info in api.store.list("previews/") if first in info.key)
    assert keys == {key}, "the object of the oldest is on the list of deletions"
    problem(api.get(f"/v1/previews/{first}"), 404, "not-found")
    api.post(PATH, {"sigma_rel": 0.11})
    assert api.get(f"/v1/previews/{waiting}").json()["state"] == "queued", "somebody waits for it"
    again = api.post(PATH, {"sigma_rel": 0.08})
    assert (again.status_code, again.json()["state"]) == (202, "queued"), "drawn again, under a new id"
    assert again.json()["id"] != first


@only("sqlite")
def test_retention_waits_for_previews(api: Api, run: Run) -> None:
    api.post(PATH, {"sigma_rel": 0.17, "tolerance": None})
    body = {"policy": "latest", "keep": 1, "force": True}
    found = api.post("/v1/runs/digits/retention", body).json()
    assert found["in_use"] > 0
    finish(api)
    assert api.post("/v1/runs/digits/retention", body).json()["in_use"] == 0


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "sigma_rel is missing; give sigma_rel, or profiles of any kind"),
        ({"sigma_rel": [0.1, 0.2]}, "sigma_rel names 2 averages; a preview shows exactly one"),
        ({"sigma_rel": 0.1, "seeds": "0-64"}, "seeds names 65 pictures; a preview draws at most 64"),
        ({"sigma_rel": 0.1, "class_label": 10}, "class_label 10 is no class of this network"),
        ({"sigma_rel": 0.1, "guidance": 2}, "guidance 2 needs guide_id"),
        ({"sigma_rel": 0.1, "guidance": 2, "guide_id": "rec-1"}, "guide_id 'rec-1' is no reconstruction"),
        ({"sigma_rel": 0.1, "guidance_interval": [1, 2]}, "guidance_interval [1, 2] has no effect with guidance 1"),
        ({"sigma_rel": 0.1, "num_images": 5}, "num_images 5 has no snapshot"),
        ({"sigma_rel": 0.1, "format": "zip"}, "format"),
    ],
)
@only("sqlite")
def test_mistakes_are_one_sentence(api: Api, run: Run, body: dict[str, Any], sentence: str) -> None:
    assert sentence in problem(api.post(PATH, body), 422, "invalid")["detail"]
    assert api.get("/v1/jobs?kind=preview").json()["items"] == []


@only("sqlite")
def test_runs_that_cannot_be_previewed(api: Api) -> None:
    seed.run(api.catalog)
    problem(api.post(PATH, {"sigma_rel": 0.1}), 409, "no-snapshots")
    asked = {"name": "mine", "config": {"model": "a classifier"}, "total_images": 64_000}
    mine = api.post("/v1/runs/external", asked).json()
    api.post("/v1/runs/mine/snapshots", seed.upload(api.store, mine, num_images=6_400, weights=[1, 2]))
    said = problem(api.post("/v1/runs/mine/previews", {"sigma_rel": 0.1}), 422, "invalid")["detail"]
    assert said.startswith("run names mine, of another training loop")


@only("sqlite")
def test_patterns_are_checked(api: Api) -> None:
    seed.weights(api.catalog, api.store, seed.run(api.catalog), [Profile.power(0.05), Profile.power(0.10)])
    body = {"sigma_rel": 0.1, "tensors": [{"pattern": "enc.*", "profile": {"sigma_rel": 0.05}}]}
    assert api.post(PATH, body).json()["label"] == "0.1-per-tensor"
    body["tensors"] = [{"pattern": "nothing", "profile": {"sigma_rel": 0.05}}]
    assert "matches none" in problem(api.post(PATH, body), 422, "invalid")["detail"]
