"""`/v1/sweeps`; the worker's side is in tests/phema_worker/test_coordination.py."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from phema.shared.catalog import JobKind, JobState, StudyKind
from phema.shared.snapshots.profile import Profile
from phema.shared.studies.sweep_points import SweepPoints
from phema.shared.studies.sweep_spec import StoredSweep, SweepSpec
from tests.api import seed
from tests.api.http import Api, problem
from tests.fixtures.catalog import only

PATH = "/v1/sweeps"
GRID = {"run": "digits", "sigma_rel": [0.05, 0.1, 0.2], "num_samples": 64}


@pytest.fixture
def trained(api: Api) -> str:
    return seed.trained(api.catalog, api.store).id


def evaluate(api: Api, sweep_id: str, values: list[float | None]) -> None:
    """Give the first points of a sweep figures (or an error), as a worker would."""
    with api.catalog.transaction() as tx:
        study = tx.studies.get(sweep_id, StudyKind.SWEEP)
        points = SweepPoints(StoredSweep.model_validate(study.spec), study.run_id)
        for number, value in enumerate(values):
            tx.studies.add_point(study.id, number, points[number].model_dump(mode="json"))
            if value is None:
                tx.studies.set_point(study.id, number, error="its network is broken")
                continue
            rec, _ = tx.reconstructions.find_or_create(
                run_id=study.run_id,
                num_images=points[number].weights.num_images,
                profile=points[number].weights.profile.model_dump(mode="json"),
                dtype="float32",
                plan={"snapshots": [], "coefficients": [], **seed.NO_ERRORS},
            )
            row, _ = tx.evaluations.find_or_create(
                run_id=study.run_id, reconstruction_id=rec.id, recipe=points[number].recipe | {"guide_id": None}
            )
            replicates = {"frechet": [value - 0.1, value + 0.1, value]}
            tx.evaluations.complete(row.id, {"frechet": value}, "png", errors={"frechet": 0.12}, replicates=replicates)
            tx.studies.set_point(study.id, number, reconstruction_id=rec.id, evaluation_id=row.id)


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", PATH), ("GET", PATH), ("GET", f"{PATH}/sweep-1"), ("POST", f"{PATH}/sweep-1/extend")],
)
@only("sqlite")
def test_anonymous_gets_401(guarded: Api, method: str, path: str) -> None:
    problem(guarded.anonymous(method, path), 401, "unauthorized")


def test_a_sweep_is_asked_for_and_shown(api: Api, trained: str) -> None:
    response = api.post(PATH, GRID)
    assert response.status_code == 202
    asked = response.json()
    assert (asked["run_id"], asked["state"], asked["num_points"], asked["extends"]) == (trained, "queued", 3, None)
    assert asked["spec"]["num_images"] == [25_600], "the latest time is written down"
    assert asked["spec"]["metrics"] == ["frechet", "held_out_loss"]
    assert (asked["job"]["kind"], asked["result"]) == ("sweep", None)
    found = api.get(f"{PATH}/{asked['id']}").json()
    assert (found["points"], found["best"], found["answer"]) == ([], None, None)
    assert api.all(PATH, run="digits") == [asked]


def test_an_equal_grid_is_the_same_sweep(api: Api, trained: str) -> None:
    first = api.post(PATH, GRID).json()
    same = api.post(PATH, {**GRID, "run": trained, "seed": 0, "num_images": 25_600})
    assert (same.status_code, same.json()["id"]) == (202, first["id"])
    assert api.post(PATH, {**GRID, "seed": [0, 1]}).json()["id"] != first["id"]
    with api.catalog.transaction() as tx:
        assert len(tx.jobs.list(kind=JobKind.SWEEP).items) == 2


def test_points_are_shown_as_soon_as_there_are_some(api: Api, trained: str) -> None:
    sweep = api.post(PATH, GRID).json()["id"]
    evaluate(api, sweep, [0.5, 0.4])
    found = api.get(f"{PATH}/{sweep}").json()
    assert (found["figure"], found["best"]) == ("frechet", 1)
    assert (
        found["answer"] == "frechet is best at sigma_rel 0.1: 0.4 ± 0.12; it lies at the highest sigma_rel of the range"
    )
    worse, best = found["points"]
    assert (worse["difference"], worse["difference_error"], worse["distinct"]) == (
        pytest.approx(0.1),
        pytest.approx(0),
        True,
    )
    assert (best["difference"], best["distinct"]) == (None, None)
    assert (best["figures"], best["errors"]) == ({"frechet": 0.4}, {"frechet": 0.12})
    assert best["weights"]["sigma_rel"] == 0.1
    assert best["recipe"]["num_samples"] == 64
    evaluate(api, sweep, [0.5, 0.4, None])
    failed = api.get(f"{PATH}/{sweep}").json()["points"][2]
    assert (failed["state"], failed["error"], failed["figures"]) == ("failed", "its network is broken", None)


def test_an_extension_names_what_it_extends(api: Api, trained: str) -> None:
    first = api.post(PATH, GRID).json()
    more = api.post(f"{PATH}/{first['id']}/extend", {"sigma_rel": [0.15], "num_samples": 128})
    assert more.status_code == 202
    sweep = more.json()
    assert (sweep["extends"], sweep["num_points"]) == (first["id"], 4)
    assert sweep["spec"]["sigma_rel"] == [0.05, 0.1, 0.2, 0.15]
    assert sweep["spec"]["num_samples"] == 128
    assert api.get(f"{PATH}/{first['id']}").json()["spec"] == first["spec"]
    guided = {**GRID, "guidance": 2, "guide": {"sigma_rel": 0.2}}
    second = api.post(PATH, guided).json()
    wider = api.post(f"{PATH}/{second['id']}/extend", {"guide": {"sigma_rel": [0.25]}}).json()
    assert wider["spec"]["guide"] == {"run": trained, "num_images": [25_600], "sigma_rel": [0.2, 0.25]}


@pytest.mark.parametrize(
    ("body", "field", "sentence"),
    [
        ({}, "", "the extension is empty"),
        ({"num_samples": 32}, "num_samples", "num_samples 32 must be at least 64"),
        ({"guide": {"sigma_rel": [0.2]}}, "guide", "has no guide"),
        ({"sigma_rel": []}, "sigma_rel", "sigma_rel"),
    ],
)
@only("sqlite")
def test_extensions_that_mean_nothing_are_refused(
    api: Api, trained: str, body: dict[str, Any], field: str, sentence: str
) -> None:
    sweep = api.post(PATH, GRID).json()["id"]
    if body == {"sigma_rel": []}:
        assert api.post(f"{PATH}/{sweep}/extend", body).json()["id"] == sweep, "nothing is added"
        return
    document = problem(api.post(f"{PATH}/{sweep}/extend", body), 422, "invalid")
    assert sentence in document["detail"]
    assert document["errors"][0]["field"] == field


@pytest.mark.parametrize(
    ("fields", "field", "sentence"),
    [
        ({"run": "nobody"}, "run", "run 'nobody' is neither the id nor the name of a run"),
        ({"sigma_rel": []}, "sigma_rel", "sigma_rel is an empty list"),
        ({"sigma_rel": [0.3]}, "sigma_rel.0", "sigma_rel.0 0.3 must be less than"),
        (
            {"num_images": [6000]},
            "num_images",
            "num_images 6000 has no snapshot; the nearest are 3200, 6400, 9600, 12800",
        ),
        (
            {"guidance": 2, "guide": {"sigma_rel": 0.2, "num_images": 1}},
            "guide.num_images",
            "guide.num_images 1 has no snapshot",
        ),
        ({"guidance": 2, "guide": {"run": "nobody", "sigma_rel": 0.2}}, "guide.run", "guide.run 'nobody' is neither"),
        ({"guidance": 2, "guide": {"run": "wide", "sigma_rel": 0.2}}, "guide.run", "guide.run wide has img_resolution"),
        ({"guidance": 2}, "guide", "guidance 2 needs guide"),
        ({"metrics": ["nonsense"]}, "metrics.0", 'metrics.0 "nonsense" must be'),
        ({"tensors": [{"pattern": "*emb*", "profile": {"sigma_rel": 0.3}}]}, "tensors.0.0.profile", "sigma_rel"),
        ({"num_steps": 1}, "num_steps", "num_steps 1 must be greater than or equal to 2"),
        ({"nonsense": 1}, "nonsense", "nonsense is not known here"),
    ],
)
@only("sqlite")
def test_mistakes_are_one_sentence_before_any_work(
    api: Api, trained: str, fields: dict[str, Any], field: str, sentence: str
) -> None:
    wide = {"network": {"img_resolution": 16}, "dataset": {"name": "mine", "path": "/nowhere", "held_out": 0}}
    with api.catalog.transaction() as tx:
        config = tx.runs.get("digits").config
        network = config["network"] | wide["network"]
        other = tx.runs.create("wide", config | {"network": network}, "hash", 25_600)
    seed.snapshots(api.catalog, api.store, other.id, times=[25_600])
    document = problem(api.post(PATH, {**GRID, **fields}), 422, "invalid")
    assert sentence in document["detail"]
    assert document["errors"][0]["field"] == field
    with api.catalog.transaction() as tx:
        assert tx.jobs.list(kind=JobKind.SWEEP).items == []


@only("sqlite")
def test_patterns_of_tensors_are_checked_against_the_file(api: Api) -> None:
    run = seed.run(api.catalog)
    seed.weights(api.catalog, api.store, run, [Profile.power(0.05), Profile.power(0.1)])
    good = {**GRID, "tensors": [[], [{"pattern": "*emb*", "profile": {"sigma_rel": 0.2}}]]}
    assert api.post(PATH, good).json()["num_points"] == 6
    wrong = {**GRID, "tensors": [[], [{"pattern": "*embed*", "profile": {"sigma_rel": 0.2}}]]}
    document = problem(api.post(PATH, wrong), 422, "invalid")
    assert document["errors"][0]["field"] == "tensors.1.0.pattern"


@only("sqlite")
def test_a_run_without_snapshots_has_no_sweep_yet(api: Api) -> None:
    seed.run(api.catalog)
    problem(api.post(PATH, GRID), 409, "no-snapshots")


def test_a_sweep_is_cancelled_through_its_job(api: Api, trained: str) -> None:
    sweep = api.post(PATH, GRID).json()
    api.post(f"/v1/jobs/{sweep['job']['id']}/cancel")
    assert api.get(f"{PATH}/{sweep['id']}").json()["state"] == JobState.CANCELLED
    again = api.post(PATH, GRID).json()
    assert (again["id"], again["state"]) == (sweep["id"], "queued")
    assert again["job"]["id"] != sweep["job"]["id"]


@only("sqlite")
def test_a_repeated_request_is_answered_from_the_record(api: Api, trained: str) -> None:
    headers = {"Idempotency-Key": "k"}
    first = api.post(PATH, GRID, headers=headers)
    again = api.post(PATH, GRID, headers=headers)
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"


@only("sqlite")
def test_the_schema_allows_one_value_in_place_of_a_list(api: Api, trained: str) -> None:
    document = api.app.openapi()
    schema = {**document["components"]["schemas"]["SweepCreate"], "components": document["components"]}
    guide = {"sigma_rel": 0.2, "num_images": 6400}
    tensors = [{"pattern": "*emb*", "profile": {"sigma_rel": 0.2}}]
    for fields in (
        {"num_steps": 8, "seed": 0, "guidance": 2, "guide": guide, "guidance_interval": [0.2, 1.6]},
        {"num_steps": [8, 16], "num_images": [6400], "churn_max": [None, 50.0], "tensors": tensors},
        {"tensors": [[], tensors], "guidance": [1, 2], "guide": guide, "guidance_interval": [None, [0.2, 1.6]]},
    ):
        Draft202012Validator(schema).validate({**GRID, **fields})
        assert SweepSpec.model_validate({"sigma_rel": 0.1, **fields}).num_points > 0
    assert list(Draft202012Validator(schema).iter_errors({**GRID, "num_steps": "many"}))
