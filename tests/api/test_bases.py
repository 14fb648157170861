"""Compaction: plans, jobs, rows, and when an existing basis covers a request."""

from __future__ import annotations

from typing import Any

import pytest

from phema.shared.catalog import JobKind
from tests.api import seed
from tests.api.http import Api, problem
from tests.fixtures.catalog import only

PATH = "/v1/runs/digits/bases"


@pytest.mark.parametrize(("method", "path"), [("POST", PATH), ("GET", PATH), ("GET", "/v1/bases/basis-1")])
@only("sqlite")
def test_anonymous_gets_401(guarded: Api, method: str, path: str) -> None:
    problem(guarded.anonymous(method, path), 401, "unauthorized")


@only("sqlite")
def test_a_plan_is_answered_without_any_work(api: Api) -> None:
    run = seed.trained(api.catalog, api.store)
    answer = api.post(PATH, {"plan_only": True, "sigma_rel_min": 0.03, "tolerance": 1e-3})
    assert answer.status_code == 200
    plan = answer.json()
    assert (plan["num_images"], plan["sigma_rel_min"], plan["sigma_rel_max"]) == (25_600, 0.03, 0.25)
    assert [s["num_images"] for s in plan["snapshots"]] == [t for t in seed.TIMES for _ in seed.STORED]
    assert {s["profile"]["sigma_rel"] for s in plan["snapshots"]} == set(seed.STORED)
    assert plan["bytes_to_read"] == 16 * 64
    assert plan["bytes_to_store"] == plan["vectors"] * 64
    assert 0 < plan["error_added"] <= 1e-3
    assert plan["basis_id"] is None
    finer = api.post(PATH, {"plan_only": True, "sigma_rel_min": 0.03, "tolerance": 1e-6}).json()
    assert finer["vectors"] > plan["vectors"]
    early = api.post(PATH, {"plan_only": True, "num_images": 12_800}).json()
    assert len(early["snapshots"]) == 8
    with api.catalog.transaction() as tx:
        assert tx.jobs.list(kind=JobKind.COMPACT).items == []
        assert tx.bases.page(run.id).items == []


def test_a_basis_is_made_once_and_answers_for_what_it_covers(api: Api) -> None:
    run = seed.trained(api.catalog, api.store)
    answer = api.post(PATH, {})
    assert answer.status_code == 202
    accepted = answer.json()
    basis = accepted["basis"]
    assert (basis["run_id"], basis["state"], basis["size"], basis["job_id"]) == (
        run.id,
        "queued",
        None,
        accepted["job"]["id"],
    )
    assert accepted["job"]["kind"] == "compact"
    again = api.post(PATH, {})
    assert (again.status_code, again.json()["job"], again.json()["basis"]["id"]) == (202, None, basis["id"])
    seed.finish_basis(api.catalog, api.store)
    found = api.get(f"/v1/bases/{basis['id']}").json()
    assert (found["state"], found["size"], found["error"]) == ("succeeded", found["vectors"] * 128, None)
    for covered in ({}, {"sigma_rel_min": 0.05, "sigma_rel_max": 0.2}, {"tolerance": 1e-2}, {"num_images": 25_600}):
        same = api.post(PATH, covered)
        assert (same.status_code, same.json()) == (200, {"job": None, "basis": found})
    covered_plan = api.post(PATH, {"plan_only": True, "tolerance": 1e-2}).json()
    assert (covered_plan["vectors"], covered_plan["basis_id"]) == (found["vectors"], found["id"])
    assert (covered_plan["bytes_to_read"], covered_plan["bytes_to_store"]) == (0, 0)
    for wider in ({"sigma_rel_min": 0.015}, {"tolerance": 1e-5}, {"num_images": 12_800}):
        assert api.post(PATH, wider).json()["basis"]["id"] != basis["id"]
    items = api.all(PATH, limit=2)
    assert len(items) == 4
    assert items[-1] == found


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"sigma_rel_min": 0.3}, "sigma_rel_min 0.3 must be less than 0.288"),
        ({"sigma_rel_min": 1e-300}, "sigma_rel_min 1e-300 must be greater than or equal to 0.000001"),
        ({"sigma_rel_min": 0.1, "sigma_rel_max": 0.05}, "sigma_rel_min 0.1 must be below sigma_rel_max 0.05"),
        ({"tolerance": 0}, "tolerance 0 must be greater than or equal to 0.0000001"),
        ({"num_images": 7}, "num_images 7 has no snapshot; the nearest are 3200, 6400"),
        ({"vectors": 3}, "vectors"),
    ],
)
@only("sqlite")
def test_mistakes_get_a_sentence(api: Api, body: dict[str, Any], sentence: str) -> None:
    seed.trained(api.catalog, api.store)
    assert sentence in problem(api.post(PATH, body), 422, "invalid")["detail"]


@only("sqlite")
def test_a_run_without_snapshots_cannot_be_compacted(api: Api) -> None:
    seed.run(api.catalog)
    assert "nothing to compact" in problem(api.post(PATH, {}), 409, "no-snapshots")["detail"]
    problem(api.get("/v1/bases/basis-none"), 404, "not-found")
    problem(api.post("/v1/runs/none/bases", {}), 404, "not-found")


@only("sqlite")
def test_a_repeated_request_gets_its_answer(api: Api) -> None:
    seed.trained(api.catalog, api.store)
    headers = {"Idempotency-Key": "one"}
    first = api.post(PATH, {}, headers=headers)
    assert api.post(PATH, {}, headers=headers).json() == first.json()
    problem(api.post(PATH, {"tolerance": 1e-3}, headers=headers), 422, "key-reused")


@only("sqlite")
def test_the_latest_time_is_that_with_every_tracked_average(api: Api) -> None:
    """As many averages as the time before are not enough: they may be others."""
    run = seed.run(api.catalog)
    seed.snapshots(api.catalog, api.store, run.id, (3200, 6400))
    seed.snapshots(api.catalog, api.store, run.id, (9600,), (0.05, 0.2))
    for path in (PATH, "/v1/runs/digits/reconstructions"):
        body = {"plan_only": True} if path == PATH else {"plan_only": True, "sigma_rel": 0.1}
        assert api.post(path, body).json()["num_images"] == 6400


@only("sqlite")
def test_a_basis_may_cover_learning_rate_decays(api: Api) -> None:
    seed.trained(api.catalog, api.store)
    decay = {"kind": "lr_decay", "shape": "cosine", "length_images": 6400}
    plain = api.post(PATH, {}).json()["basis"]
    wider = api.post(PATH, {"profiles": [decay]}).json()["basis"]
    assert (plain["profiles"], wider["profiles"]) == ([], [decay])
    assert wider["id"] != plain["id"]
    for _ in range(2):
        seed.finish_basis(api.catalog, api.store)
    assert api.post(PATH, {"profiles": [decay]}).json()["basis"]["id"] == wider["id"]
    other = decay | {"length_images": 3200}
    assert api.post(PATH, {"plan_only": True, "profiles": [other]}).json()["basis_id"] is None
    document = problem(api.post(PATH, {"profiles": [decay | {"length_images": 99_999}]}), 422, "invalid")
    assert [error["field"] for error in document["errors"]] == ["profiles"]
    assert "length_images 99999 of the decay must be at most num_images 25600" in document["detail"]
    document = problem(api.post(PATH, {"profiles": [{"kind": "uniform", "last_times": 2}]}), 422, "invalid")
    assert "names mean-of-2-times at place 0; give profiles of a single, definite average" in document["detail"]
