"""Runs that phema does not train: `/v1/runs/external`, their snapshots, and finishing them."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sqlalchemy import text

from phema.shared.catalog import JobKind
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.object_keys import run_key
from tests.api import seed
from tests.api.http import Api, problem

CONFIG = {"model": "a small classifier", "learning_rate": 0.1}
ASKED = {"name": "mine", "config": CONFIG}


def opened(api: Api, **fields: Any) -> Any:
    answer = api.post("/v1/runs/external", {**ASKED, **fields})
    assert answer.status_code in (200, 201), answer.text
    return answer.json()


def uploaded(
    api: Api, run: Any, num_images: int = 640, profile: Profile | None = None, says: Any = None
) -> dict[str, Any]:
    """The request that registers a file which is in the store. `says`: what its header has otherwise."""
    weights = torch.randn(12, generator=torch.Generator().manual_seed(num_images)).tolist()
    return seed.upload(api.store, run, num_images=num_images, weights=weights, profile=profile, says=says)


def test_anonymous_gets_401(guarded: Api) -> None:
    for path in ("/v1/runs/external", "/v1/runs/mine/snapshots", "/v1/runs/mine/finish"):
        problem(guarded.anonymous("POST", path), 401, "unauthorized")


def test_a_run_is_opened_once_and_found_again(api: Api) -> None:
    answer = api.post("/v1/runs/external", ASKED)
    assert answer.status_code == 201
    run = answer.json()
    assert (run["origin"], run["preset"], run["state"]) == ("external", None, "running")
    assert (run["config"], run["num_images"], run["total_images"]) == (CONFIG, 0, 1)
    assert run["job"]["kind"] == "external"
    again = api.post("/v1/runs/external", {"name": "mine", "config": dict(reversed(CONFIG.items()))})
    assert (again.status_code, again.json()) == (200, run)
    for other in ({"config": {}}, {"origin": "imported"}):
        detail = problem(api.post("/v1/runs/external", {**ASKED, **other}), 409, "name-taken")["detail"]
        assert "name 'mine' is taken by another run, or by this one with another origin or config" in detail
    seed.run(api.catalog, "digits")
    problem(api.post("/v1/runs/external", {"name": "digits"}), 409, "name-taken")
    assert [item["name"] for item in api.all("/v1/runs")] == ["digits", "mine"]
    said = json.loads(api.store.get(run_key(run["id"])))
    assert said == {"id": run["id"], "name": "mine", "origin": "external", "total_images": None, "config": CONFIG}


def test_nobody_claims_or_expires_it(api: Api) -> None:
    run = opened(api)
    with api.catalog.transaction() as tx:
        assert tx.leases.claim(list(JobKind), owner="thief", lease_seconds=1) is None
        assert tx.leases.expire() == []
    assert api.get(f"/v1/runs/{run['id']}").json()["state"] == "running"


def test_snapshots_are_registered_once(api: Api) -> None:
    run = opened(api)
    body = uploaded(api, run)
    first = api.post("/v1/runs/mine/snapshots", body)
    assert first.status_code == 201, first.text
    assert (first.json()["sigma_rel"], first.json()["dtype"]) == (0.05, "float16")
    again = api.post("/v1/runs/mine/snapshots", body)
    assert (again.status_code, again.json()) == (200, first.json())
    # A script that is started again may come to slightly other weights: the time and profile count.
    retrained = uploaded(api, run, says={"code_version": "other"})
    assert retrained["key"] != body["key"]
    assert api.post("/v1/runs/mine/snapshots", retrained).json() == first.json()
    raw = uploaded(api, run, profile=Profile(kind="raw"))
    assert api.post("/v1/runs/mine/snapshots", raw).status_code == 201
    assert len(api.all("/v1/runs/mine/snapshots")) == 2
    with api.catalog.transaction(read_only=True) as tx:
        assert tx.snapshots.probes(run["id"])[first.json()["id"]] == base64.b64decode(body["probe"])
    seen = api.get("/v1/runs/mine").json()
    assert (seen["num_images"], seen["total_images"]) == (640, 640)


def test_progress_of_a_run_that_knows_its_length(api: Api) -> None:
    run = opened(api, total_images=1280)
    api.post("/v1/runs/mine/snapshots", uploaded(api, run))
    seen = api.get("/v1/runs/mine").json()
    assert (seen["num_images"], seen["total_images"], seen["job"]["progress"]) == (640, 1280, 0.5)


def test_reconstructions_of_its_snapshots_are_planned(api: Api) -> None:
    run = opened(api)
    for num_images in (640, 1280, 1920):
        for sigma_rel in (0.05, 0.10):
            body = uploaded(api, run, num_images, Profile.power(sigma_rel))
            assert api.post("/v1/runs/mine/snapshots", body).status_code == 201
    # The latest time is half there, as while a training loop writes it.
    api.post("/v1/runs/mine/snapshots", uploaded(api, run, 2560, Profile.power(0.05)))
    plan = api.post("/v1/runs/mine/reconstructions", {"sigma_rel": [0.08], "plan_only": True})
    assert plan.status_code == 200, plan.text
    assert plan.json()["num_images"] == 1920


def test_planning_without_snapshots_says_so(api: Api) -> None:
    opened(api)
    answer = api.post("/v1/runs/mine/reconstructions", {"sigma_rel": [0.08], "plan_only": True})
    assert "run mine has no snapshots yet" in problem(answer, 409, "no-snapshots")["detail"]


def test_wrong_fields_are_named_and_get_no_row(api: Api) -> None:
    run = opened(api)
    right = uploaded(api, run)
    for wrong, field, sentence in (
        ({"key": "runs/run-1/snapshots/x.safetensors"}, "key", "must be runs/"),
        ({"size": 7}, "key", "bytes, 7 were written"),
        ({"dtype": "float32"}, "dtype", "dtype float32 is not what the file at"),
        ({"profile": {"kind": "basis", "index": 0}}, "profile", "is no average that a training loop keeps"),
        ({"probe": "!"}, "probe", "must be base64"),
        ({"probe": "AAAA"}, "probe", "holds 3 bytes"),
        ({"probe": "AADAfw=="}, "probe", "holds values that are not finite numbers"),
        ({"num_images": 0}, "num_images", "greater than or equal to 1"),
    ):
        document = problem(api.post("/v1/runs/mine/snapshots", {**right, **wrong}), 422, "invalid")
        assert document["errors"][0]["field"] == field
        assert sentence in document["detail"]
    assert api.all("/v1/runs/mine/snapshots") == []


def test_a_run_holds_the_same_tensors(api: Api) -> None:
    run = opened(api)
    assert api.post("/v1/runs/mine/snapshots", uploaded(api, run)).status_code == 201
    wider = seed.upload(api.store, run, num_images=1280, weights=[1.0] * 13)
    detail = problem(api.post("/v1/runs/mine/snapshots", wider), 422, "invalid")["detail"]
    assert "has tensor weight averaged with shape (13,); in the run's snapshot at 640 images it is averaged" in detail
    copied = uploaded(api, run, 1280, says={"buffers": ["weight"]})
    detail = problem(api.post("/v1/runs/mine/snapshots", copied), 422, "invalid")["detail"]
    assert "has tensor weight copied with shape (12,)" in detail


@pytest.mark.parametrize(
    ("profile", "sentence"),
    [
        (Profile(kind="exponential", half_life_images=100, rampup_ratio=0.7), "must lie between 0 and ln 2"),
        (Profile(kind="sampled", times=(10, 600), weights=(1.0, 2.0)), "rise from above 0 to num_images 640"),
    ],
)
def test_an_average_that_planning_could_not_use_gets_no_row(api: Api, profile: Profile, sentence: str) -> None:
    run = opened(api)
    document = problem(api.post("/v1/runs/mine/snapshots", uploaded(api, run, 640, profile)), 422, "invalid")
    assert document["errors"][0]["field"] == "profile"
    assert sentence in document["detail"]


def test_bytes_that_are_not_those_of_the_hash_get_no_row(api: Api) -> None:
    """A local store keeps no hashes."""
    body = uploaded(api, opened(api))
    wrong = hashlib.sha256(b"").hexdigest()
    key = body["key"].replace(body["sha256"], wrong)
    api.store.put(key, api.store.get(body["key"]))
    answer = api.post("/v1/runs/mine/snapshots", {**body, "key": key, "sha256": wrong})
    assert "is not that of the object" in problem(answer, 422, "invalid")["detail"]


def test_a_registered_snapshot_has_a_run_that_a_rebuild_finds(api: Api) -> None:
    """A service that died between the row of the run and its run.json."""
    run = opened(api)
    api.store.delete(run_key(run["id"]))
    assert api.post("/v1/runs/mine/snapshots", uploaded(api, run)).status_code == 201
    assert json.loads(api.store.get(run_key(run["id"])))["name"] == "mine"


def test_another_length_is_refused(api: Api) -> None:
    run = opened(api, total_images=1280)
    assert opened(api, total_images=1280) == opened(api) == run
    detail = problem(api.post("/v1/runs/external", {**ASKED, "total_images": 2560}), 422, "invalid")["detail"]
    assert "total_images 2560 cannot be given to run mine, which was opened with 1280" in detail


def test_a_file_that_says_otherwise_gets_no_row(api: Api) -> None:
    run = opened(api)
    says: tuple[tuple[dict[str, Any], str], ...] = (
        ({"run_id": "run-other"}, "run"),
        ({"num_images": 1280}, "num_images"),
        ({"profile": Profile.power(0.1)}, "profile"),
        ({"config_hash": "0" * 64}, "config_hash"),
        ({"dtype": "float32"}, "dtype"),
    )
    for said, field in says:
        answer = api.post("/v1/runs/mine/snapshots", uploaded(api, run, says=said))
        assert problem(answer, 422, "invalid")["errors"][0]["field"] == field
    assert api.all("/v1/runs/mine/snapshots") == []


def test_missing_and_broken_files_get_no_row(api: Api) -> None:
    run = opened(api)
    body = uploaded(api, run)
    api.store.delete(body["key"])
    detail = problem(api.post("/v1/runs/mine/snapshots", body), 422, "invalid")["detail"]
    assert "is not in the service's store" in detail
    api.store.put(body["key"], b"\0" * body["size"])
    detail = problem(api.post("/v1/runs/mine/snapshots", body), 422, "invalid")["detail"]
    assert "is not a snapshot file" in detail
    foreign = uploaded(api, run, 1280)
    api.store.delete(foreign["key"])
    api.store.put(foreign["key"], b"\x08\0\0\0\0\0\0\0{}      ")
    detail = problem(api.post("/v1/runs/mine/snapshots", {**foreign, "size": 16}), 422, "invalid")["detail"]
    assert "does not say which snapshot it is" in detail


def test_a_config_must_be_json(api: Api) -> None:
    body = '{"name": "mine", "config": {"loss": NaN}}'
    answer = api.request("POST", "/v1/runs/external", content=body, headers={"Content-Type": "application/json"})
    assert "config holds NaN or an infinity" in problem(answer, 422, "invalid")["detail"]
    body = '{"name": "mine", "config": {"text": "\\ud800"}}'
    answer = api.request("POST", "/v1/runs/external", content=body, headers={"Content-Type": "application/json"})
    assert "config.text holds half a surrogate pair" in problem(answer, 422, "invalid")["detail"]
    deep: list[Any] = []
    for _ in range(299):
        deep = [deep]
    detail = problem(api.post("/v1/runs/external", {**ASKED, "config": {"deep": deep}}), 400, "bad-request")["detail"]
    assert "the body is nested deeper than 65 levels" in detail
    for _ in range(299 - 62):
        deep = deep[0]
    opened(api, config={"deep": deep})
    assert len(api.all("/v1/runs")) == 1
    assert (
        "must not start with run-"
        in problem(api.post("/v1/runs/external", {"name": "run-x"}), 422, "invalid")["detail"]
    )


@pytest.mark.parametrize(("end", "state"), [("finish", "succeeded"), ("cancel", "cancelled")])
def test_its_end_is_its_users(api: Api, end: str, state: str) -> None:
    run = opened(api)
    body = uploaded(api, run)
    ended = api.post(f"/v1/runs/mine/{end}")
    assert (ended.status_code, ended.json()["state"]) == (200, state)
    assert ended.json()["job"]["finished_at"] is not None
    assert api.post(f"/v1/runs/mine/{end}").json() == ended.json()
    detail = problem(api.post("/v1/runs/mine/snapshots", body), 409, "run-not-open")["detail"]
    assert f"run mine has {state} and takes no more snapshots" in detail
    assert opened(api)["state"] == state
    assert api.post("/v1/runs/mine/resume").json()["state"] == "running"
    assert api.post("/v1/runs/mine/resume").json()["state"] == "running"
    assert api.post("/v1/runs/mine/snapshots", body).status_code == 201
    assert api.post("/v1/runs/mine/finish").json()["state"] == "succeeded"


def test_cancelling_the_job_ends_the_run(api: Api) -> None:
    run = opened(api)
    assert api.post(f"/v1/jobs/{run['job']['id']}/cancel").json()["state"] == "cancelled"
    assert "run mine has cancelled" in problem(api.post("/v1/runs/mine/finish"), 409, "run-not-open")["detail"]


def test_runs_that_phema_trains_are_left_alone(api: Api) -> None:
    run = seed.run(api.catalog)
    given = {"id": run.id, "config_hash": run.config_hash, "config": run.config}
    answer = api.post("/v1/runs/digits/snapshots", uploaded(api, given))
    assert "run digits is trained by phema" in problem(answer, 409, "run-not-open")["detail"]
    assert "cancel it to stop it" in problem(api.post("/v1/runs/digits/finish"), 409, "run-not-open")["detail"]
    problem(api.post("/v1/runs/nobody/finish"), 404, "not-found")
    problem(api.post("/v1/runs/nobody/snapshots", uploaded(api, given)), 404, "not-found")


def test_weights_without_a_network_are_not_evaluated(api: Api) -> None:
    run = opened(api)
    weights = seed.reconstruction(api.catalog, api.store, run["id"])
    answer = api.post("/v1/evaluations", {"reconstruction_id": weights.id})
    detail = problem(answer, 422, "invalid")["detail"]
    assert f"reconstruction_id {weights.id} belongs to run mine, of another training loop" in detail
    known = seed.reconstruction(api.catalog, api.store, seed.run(api.catalog).id)
    guided = {"reconstruction_id": known.id, "guide_id": weights.id, "guidance": 2.0}
    assert (
        f"guide_id {weights.id} belongs to run mine"
        in problem(api.post("/v1/evaluations", guided), 422, "invalid")["detail"]
    )


def test_with_a_network_they_are(api: Api) -> None:
    config = seed.run(api.catalog).config
    run = opened(api, name="imported", origin="imported", config=config, total_images=config["total_images"])
    assert (run["origin"], run["preset"]) == ("imported", "digits-tiny")
    weights = seed.reconstruction(api.catalog, api.store, run["id"])
    assert api.post("/v1/evaluations", {"reconstruction_id": weights.id}).status_code == 202


def test_an_import_without_a_dataset_is_not_evaluated(api: Api) -> None:
    config = seed.run(api.catalog).config | {"dataset": {"name": "imported", "held_out": 0}}
    run = opened(api, name="imported", origin="imported", config=config)
    weights = seed.reconstruction(api.catalog, api.store, run["id"])
    detail = problem(api.post("/v1/evaluations", {"reconstruction_id": weights.id}), 422, "invalid")["detail"]
    assert "belongs to run imported, whose configuration has no dataset to compare with" in detail
    assert "import it under another name with its dataset" in detail


def test_snapshots_on_s3(open_api: Callable[..., Api], settings: Any, s3_settings: dict[str, Any]) -> None:
    api = open_api(settings.model_copy(update=s3_settings))
    run = opened(api)
    body = uploaded(api, run)
    assert api.post("/v1/runs/mine/snapshots", body).status_code == 201
    other = uploaded(api, run, 1280)
    wrong = hashlib.sha256(b"").hexdigest()
    key = other["key"].replace(other["sha256"], wrong)
    api.store.put(key, api.store.get(other["key"]))
    answer = api.post("/v1/runs/mine/snapshots", {**other, "key": key, "sha256": wrong})
    assert "is not that of the object" in problem(answer, 422, "invalid")["detail"]


def test_a_heartbeat_is_a_sign_of_life(api: Api) -> None:
    run = opened(api)
    with api.catalog.transaction() as tx:
        tx.runs._session.execute(text("UPDATE runs SET written_at = written_at - 4000"))
    with api.catalog.transaction() as tx:
        assert [one.id for one in tx.external_runs.note_silent(at_least_s=600)] == [run["id"]]
    assert api.get("/v1/runs/mine").json()["silent_since"] is not None
    assert api.post("/v1/runs/mine/heartbeat").json()["silent_since"] is None
    api.post("/v1/runs/mine/finish")
    problem(api.post("/v1/runs/mine/heartbeat"), 409, "run-not-open")
