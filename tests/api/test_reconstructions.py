"""Reconstructions: plans, jobs, rows; the files are in test_downloads.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sqlalchemy import update

from phema.shared.catalog import JobKind, Snapshot
from phema.shared.edm2.averaging.posthoc import profile_errors, solve
from phema.shared.edm2.averaging.weightings import PowerWeighting
from phema.shared.snapshots.profile import Profile
from tests.api import seed
from tests.api.http import Api, problem
from tests.fixtures.catalog import only

PATH = "/v1/runs/digits/reconstructions"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", PATH),
        ("GET", PATH),
        ("GET", "/v1/reconstructions/rec-1"),
        ("GET", "/v1/reconstructions/rec-1/download"),
    ],
)
@only("sqlite")
def test_anonymous_gets_401(guarded: Api, method: str, path: str) -> None:
    problem(guarded.anonymous(method, path), 401, "unauthorized")


def test_a_plan_is_answered_without_any_work(api: Api) -> None:
    run = seed.trained(api.catalog, api.store)
    body = {"sigma_rel": [0.07, 0.15], "num_images": 12_800, "regularize": False, "plan_only": True}
    response = api.post(PATH, body)
    assert response.status_code == 200
    plan = response.json()
    stored = [(time, sigma_rel) for time in seed.TIMES[:4] for sigma_rel in seed.STORED]
    assert plan["num_images"] == 12_800
    assert [(s["num_images"], s["sigma_rel"]) for s in plan["snapshots"]] == stored
    assert plan["bytes_to_read"] == 8 * 64
    assert (plan["seconds"], plan["calibrated"], plan["basis_id"]) == (None, False, None)
    assert {s["id"] for s in plan["snapshots"]} <= {s["id"] for s in api.all("/v1/runs/digits/snapshots")}
    profiles = [PowerWeighting(*s) for s in stored]
    targets = [PowerWeighting(12_800, 0.07), PowerWeighting(12_800, 0.15)]
    solved = solve(profiles, targets).coefficients
    expected = solved / solved.sum(axis=1, keepdims=True)
    missed = profile_errors(profiles, targets, expected)
    for output, row in zip(plan["outputs"], range(2), strict=True):
        np.testing.assert_allclose(output["coefficients"], expected[row], rtol=1e-12)
        assert output["profile_error"] == pytest.approx(missed[row], rel=1e-6)
        assert output["noise_gain"] == pytest.approx(np.linalg.norm(output["coefficients"]))
    with api.catalog.transaction() as tx:
        assert tx.jobs.list(kind=JobKind.RECONSTRUCT).items == []
        assert tx.reconstructions.page(run.id).items == []


def test_plans_of_one_time_measure_the_weights_once(api: Api) -> None:
    """Probes never change. The test deletes them to see whether a plan reads them again."""
    run = seed.run(api.catalog)
    stored = [Profile.power(sigma_rel) for sigma_rel in seed.STORED]
    seed.weights(api.catalog, api.store, run, stored, times=seed.TIMES[:-1])

    def planned() -> dict[str, Any]:
        answer = api.post(PATH, {"sigma_rel": [0.13], "plan_only": True})
        assert answer.status_code == 200
        found: dict[str, Any] = answer.json()
        return found

    first = planned()
    assert first["calibrated"]
    with api.catalog.transaction() as tx:
        tx.snapshots._session.execute(update(Snapshot).values(probe=None))
    assert planned() == first
    seed.weights(api.catalog, api.store, run, stored, times=seed.TIMES[-1:])
    assert not planned()["calibrated"], "another time is measured anew, from its probes"


def test_one_job_makes_all_outputs(api: Api) -> None:
    run = seed.trained(api.catalog, api.store)
    response = api.post(PATH, {"sigma_rel": [0.15, 0.07]})
    assert response.status_code == 202
    answer = response.json()
    outputs = answer["reconstructions"]
    assert [(o["sigma_rel"], o["num_images"], o["state"]) for o in outputs] == [
        (0.15, 25_600, "queued"),
        (0.07, 25_600, "queued"),
    ]
    assert {o["job_id"] for o in outputs} == {answer["job"]["id"]}
    job = seed.claim(api.catalog, JobKind.RECONSTRUCT)
    assert job.id == answer["job"]["id"]
    assert job.payload == {
        "run_id": run.id,
        "num_images": 25_600,
        "reconstruction_ids": [o["id"] for o in outputs],
    }
    assert api.get(f"/v1/reconstructions/{outputs[0]['id']}").json()["state"] == "running"


def test_a_finished_reconstruction_shows_its_lineage(api: Api) -> None:
    seed.trained(api.catalog, api.store)
    body = {"sigma_rel": 0.07, "dtype": "float16", "regularize": False}
    asked = api.post(PATH, body).json()["reconstructions"][0]
    finished = seed.finish_reconstructions(api.catalog, api.store)[0]
    found = api.get(f"/v1/reconstructions/{asked['id']}").json()
    assert (found["state"], found["dtype"], found["error"]) == ("succeeded", "float16", None)
    assert (found["size"], found["sha256"]) == (64, finished.sha256)
    assert len(found["snapshots"]) == len(found["coefficients"]) == 16
    assert found["noise_gain"] == pytest.approx(np.linalg.norm(found["coefficients"]))


def test_the_same_question_is_one_job(api: Api) -> None:
    seed.trained(api.catalog, api.store)
    first = api.post(PATH, {"sigma_rel": [0.05, 0.07]}).json()
    again = api.post(PATH, {"sigma_rel": [0.05, 0.07]})
    assert again.status_code == 202
    assert again.json()["job"] is None
    assert [o["id"] for o in again.json()["reconstructions"]] == [o["id"] for o in first["reconstructions"]]
    # Only outputs that were not requested before are new work.
    wider = api.post(PATH, {"sigma_rel": [0.07, 0.2]}).json()
    assert wider["reconstructions"][0]["id"] == first["reconstructions"][1]["id"]
    assert wider["reconstructions"][0]["job_id"] == first["job"]["id"] != wider["job"]["id"]
    with api.catalog.transaction() as tx:
        job = tx.jobs.get(wider["job"]["id"])
        assert job.payload["reconstruction_ids"] == [wider["reconstructions"][1]["id"]]


def test_what_is_finished_is_answered_at_once(api: Api) -> None:
    seed.trained(api.catalog, api.store)
    api.post(PATH, {"sigma_rel": [0.05, 0.07]})
    seed.finish_reconstructions(api.catalog, api.store)
    response = api.post(PATH, {"sigma_rel": 0.07})
    assert response.status_code == 200
    assert response.json()["job"] is None
    assert response.json()["reconstructions"][0]["state"] == "succeeded"


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_what_failed_may_be_asked_for_again(api: Api, end: str) -> None:
    seed.trained(api.catalog, api.store)
    first = api.post(PATH, {"sigma_rel": 0.07}).json()
    if end == "failed":
        job = seed.claim(api.catalog, JobKind.RECONSTRUCT)
        with api.catalog.transaction() as tx:
            tx.leases.fail(job.id, job.fence, "snapshot 7 is truncated", retry=False)
    else:
        api.post(f"/v1/jobs/{first['job']['id']}/cancel")
    identity = first["reconstructions"][0]["id"]
    found = api.get(f"/v1/reconstructions/{identity}").json()
    assert found["state"] == end
    assert found["error"] == ("snapshot 7 is truncated" if end == "failed" else None)
    document = problem(api.get(f"/v1/reconstructions/{identity}/download"), 409, "not-finished")
    assert f"has {end}" in document["detail"]
    second = api.post(PATH, {"sigma_rel": 0.07})
    assert second.status_code == 202
    assert second.json()["job"]["id"] != first["job"]["id"]
    assert second.json()["reconstructions"][0]["id"] == identity
    assert second.json()["reconstructions"][0]["state"] == "queued"


def test_the_question_does_not_depend_on_its_company(api: Api) -> None:
    """A stored profile reproduces itself from one snapshot, alone or beside others."""
    seed.trained(api.catalog, api.store)
    together = api.post(PATH, {"sigma_rel": [0.1, 0.07]}).json()["reconstructions"][0]
    alone = api.post(PATH, {"sigma_rel": 0.1}).json()["reconstructions"][0]
    assert alone["id"] == together["id"]
    assert alone["profile_error"] == 0.0
    assert 0 < alone["predicted_error"] < 1e-7, "only rounding to float32 is left"
    detail = api.get(f"/v1/reconstructions/{alone['id']}").json()
    assert detail["coefficients"] == [1.0]
    assert [(s["num_images"], s["sigma_rel"]) for s in detail["snapshots"]] == [(25_600, 0.1)]


def test_a_finished_one_answers_after_its_snapshots_are_gone(api: Api) -> None:
    run = seed.trained(api.catalog, api.store)
    made = api.post(PATH, {"sigma_rel": 0.15}).json()["reconstructions"][0]
    seed.finish_reconstructions(api.catalog, api.store)
    with api.catalog.transaction() as tx:
        old = [s.id for s in tx.snapshots.list(run.id) if s.num_images < 25_600]
        tx.snapshots.retire(old)
    (poor,) = api.post(PATH, {"sigma_rel": 0.15, "plan_only": True}).json()["outputs"]
    assert poor["predicted_error"] > made["predicted_error"]
    response = api.post(PATH, {"sigma_rel": 0.15})
    assert (response.status_code, response.json()["job"]) == (200, None)
    assert response.json()["reconstructions"][0]["id"] == made["id"]


def test_the_latest_time_is_the_latest_complete_one(api: Api) -> None:
    """While a run trains, one EMA of the newest time may be registered before the other."""
    run = seed.trained(api.catalog, api.store)
    seed.snapshots(api.catalog, api.store, run.id, [28_800], [0.05])
    assert api.post(PATH, {"sigma_rel": 0.07, "plan_only": True}).json()["num_images"] == 25_600
    seed.snapshots(api.catalog, api.store, run.id, [28_800], [0.10])
    assert api.post(PATH, {"sigma_rel": 0.07, "plan_only": True}).json()["num_images"] == 28_800


@pytest.mark.parametrize("plan_only", [True, False])
def test_a_run_without_snapshots_is_409(api: Api, plan_only: bool) -> None:
    seed.run(api.catalog)
    document = problem(api.post(PATH, {"sigma_rel": 0.1, "plan_only": plan_only}), 409, "no-snapshots")
    assert document["detail"] == (
        "run digits has no snapshots yet: the first is written after 3200 images, it has seen 0 and is queued"
    )


@pytest.mark.parametrize("plan_only", [True, False])
def test_a_time_without_snapshot_names_the_nearest(api: Api, plan_only: bool) -> None:
    seed.trained(api.catalog, api.store)
    body = {"sigma_rel": 0.1, "num_images": 10_000, "plan_only": plan_only}
    document = problem(api.post(PATH, body), 422, "invalid")
    assert document["errors"][0]["field"] == "num_images"
    assert "num_images 10000 has no snapshot" in document["detail"]
    assert "9600" in document["detail"]
    assert "12800" in document["detail"]


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({}, "", "sigma_rel is missing; give sigma_rel, or profiles of any kind"),
        ({"sigma_rel": 0.3}, "sigma_rel", "sigma_rel 0.3 is impossible: a power-function EMA has 0 < sigma_rel < "),
        ({"sigma_rel": [0.1, 0.0]}, "sigma_rel", "sigma_rel 0 is impossible"),
        ({"sigma_rel": -0.1}, "sigma_rel", "sigma_rel -0.1 is impossible"),
        ({"sigma_rel": "wide"}, "sigma_rel", "sigma_rel must be a number or a list of numbers, got 'wide'"),
        ({"sigma_rel": [True]}, "sigma_rel", "must be a number or a list of numbers, got True"),
        ({"sigma_rel": []}, "sigma_rel", "sigma_rel must name 1 to 256 profiles, got 0"),
        ({"sigma_rel": [0.01] * 257}, "sigma_rel", "sigma_rel must name 1 to 256 profiles, got 257"),
        ({"sigma_rel": [0.1, 0.1]}, "sigma_rel", "sigma_rel [0.1, 0.1] names a profile twice"),
        ({"sigma_rel": 0.1, "num_images": 0}, "num_images", "num_images 0 must be greater than or equal to 1"),
        ({"sigma_rel": 0.1, "num_images": 10**30}, "num_images", "must be less than or equal to"),
        ({"sigma_rel": 0.1, "dtype": "int8"}, "dtype", "dtype \"int8\" must be 'float32', 'float16' or 'bfloat16'"),
        ({"sigma_rel": 0.1, "at": 3200}, "at", "at is not known here"),
    ],
)
@only("sqlite")
def test_what_is_wrong_is_refused(api: Api, body: dict[str, Any], field: str, words: str) -> None:
    seed.trained(api.catalog, api.store)
    document = problem(api.post(PATH, body), 422, "invalid")
    assert [error["field"] for error in document["errors"]] == [field]
    assert words in document["detail"]
    assert api.all(PATH) == []


@only("sqlite")
def test_a_number_that_json_does_not_have_is_refused(api: Api) -> None:
    seed.trained(api.catalog, api.store)
    headers = {"Content-Type": "application/json"}
    response = api.request("POST", PATH, content='{"sigma_rel": NaN}', headers=headers)
    assert "must be a number" in problem(response, 422, "invalid")["detail"]


def test_reconstructions_are_listed_newest_first(api: Api) -> None:
    seed.trained(api.catalog, api.store)
    api.post(PATH, {"sigma_rel": [0.06, 0.07]})
    api.post(PATH, {"sigma_rel": [0.08]})
    listed = api.all(PATH, limit=1)
    assert [item["sigma_rel"] for item in listed] == [0.08, 0.07, 0.06]
    for item in listed:
        one = api.get(f"/v1/reconstructions/{item['id']}").json()
        assert item == {name: one[name] for name in item}, "to the last digit"
        assert one.keys() - item.keys() == {"snapshots", "coefficients", "tensors", "basis_id"}
    problem(api.get("/v1/reconstructions/rec-nobody"), 404, "not-found")
