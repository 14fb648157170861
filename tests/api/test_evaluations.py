"""`/v1/evaluations`; the pictures are in test_downloads.py."""

from __future__ import annotations

from typing import Any

import pytest

from phema.shared.catalog import JobKind
from phema.shared.recipes.evaluation_recipe import EvaluationRecipe
from phema.shared.recipes.presets import resolve
from tests.api import seed
from tests.api.http import Api, problem
from tests.fixtures.catalog import only

PATH = "/v1/evaluations"


@pytest.fixture
def subject(api: Api) -> str:
    """Id of a finished reconstruction."""
    return seed.reconstruction(api.catalog, api.store, seed.run(api.catalog).id).id


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", PATH), ("GET", PATH), ("GET", f"{PATH}/eval-1"), ("GET", f"{PATH}/eval-1/pictures")],
)
@only("sqlite")
def test_anonymous_gets_401(guarded: Api, method: str, path: str) -> None:
    problem(guarded.anonymous(method, path), 401, "unauthorized")


def test_an_evaluation_is_asked_for_done_and_shown(api: Api, subject: str) -> None:
    response = api.post(PATH, {"reconstruction_id": subject, "num_samples": 64, "metrics": ["frechet"]})
    assert response.status_code == 202
    asked = response.json()
    assert asked["recipe"] == EvaluationRecipe(num_samples=64, metrics=("frechet",)).model_dump(mode="json")
    assert (asked["state"], asked["figures"], asked["sigma_rel"]) == ("queued", None, 0.07)
    with api.catalog.transaction() as tx:
        job = tx.jobs.get(asked["job_id"])
    assert (job.kind, job.payload) == (JobKind.EVALUATE, {"evaluation_id": asked["id"]})
    problem(api.get(f"{PATH}/{asked['id']}/pictures"), 409, "not-finished")
    seed.finish_evaluation(api.catalog, api.store, {"frechet": 1.25})
    found = api.get(f"{PATH}/{asked['id']}").json()
    assert (found["state"], found["figures"], found["error"]) == ("succeeded", {"frechet": 1.25}, None)


def test_the_same_question_is_one_evaluation(api: Api, subject: str) -> None:
    first = api.post(PATH, {"reconstruction_id": subject}).json()
    same = api.post(PATH, {"reconstruction_id": subject, "num_steps": 32})
    assert (same.status_code, same.json()["id"]) == (202, first["id"])
    other = api.post(PATH, {"reconstruction_id": subject, "num_steps": 16}).json()
    assert other["id"] != first["id"]
    seed.finish_evaluation(api.catalog, api.store, {"frechet": 1.0})
    done = api.post(PATH, {"reconstruction_id": subject})
    assert (done.status_code, done.json()["figures"]) == (200, {"frechet": 1.0})
    with api.catalog.transaction() as tx:
        assert len(tx.jobs.list(kind=JobKind.EVALUATE).items) == 2


def test_what_failed_may_be_asked_for_again(api: Api, subject: str) -> None:
    first = api.post(PATH, {"reconstruction_id": subject}).json()
    job = seed.claim(api.catalog, JobKind.EVALUATE)
    with api.catalog.transaction() as tx:
        tx.leases.fail(job.id, job.fence, "the network gives NaN", retry=False)
    failed = api.get(f"{PATH}/{first['id']}").json()
    assert (failed["state"], failed["error"]) == ("failed", "the network gives NaN")
    again = api.post(PATH, {"reconstruction_id": subject}).json()
    assert (again["id"], again["state"]) == (first["id"], "queued")
    assert again["job_id"] != first["job_id"]


def test_weights_must_be_finished(api: Api) -> None:
    seed.trained(api.catalog, api.store)
    asked = api.post("/v1/runs/digits/reconstructions", {"sigma_rel": 0.07}).json()["reconstructions"][0]
    document = problem(api.post(PATH, {"reconstruction_id": asked["id"]}), 409, "not-finished")
    assert document["detail"] == (
        f"reconstruction_id: reconstruction {asked['id']} is queued; wait until it has succeeded"
    )


def test_a_guide_comes_from_any_run_whose_pictures_fit(api: Api, subject: str) -> None:
    guide = seed.reconstruction(api.catalog, api.store, seed.run(api.catalog, "guide").id).id
    asked = api.post(PATH, {"reconstruction_id": subject, "guidance": 2.0, "guide_id": guide})
    assert asked.status_code == 202
    assert asked.json()["recipe"]["guide_id"] == guide


def _reconstruction_of(api: Api, name: str, **config: Any) -> str:
    """Id of a finished reconstruction of another run, configured so."""
    other = resolve("digits-tiny", config)
    with api.catalog.transaction() as tx:
        run = tx.runs.create(name, other.model_dump(mode="json"), other.config_hash, other.total_images)
    return seed.reconstruction(api.catalog, api.store, run.id).id


@only("sqlite")
def test_an_unconditional_guide_fits_any_network(api: Api, subject: str) -> None:
    guide = _reconstruction_of(api, "plain", network={"label_dim": 0, "model_channels": 64})
    assert api.post(PATH, {"reconstruction_id": subject, "guidance": 2.0, "guide_id": guide}).status_code == 202


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"label_dim": 3}, "has label_dim 3; to guide {subject} it must be 10 or 0"),
        ({"img_resolution": 16}, "has img_resolution 16; to guide {subject} it must be 8"),
        ({"img_channels": 3}, "has img_channels 3; to guide {subject} it must be 1"),
    ],
)
@only("sqlite")
def test_a_guide_that_does_not_fit_is_refused(api: Api, subject: str, fields: dict[str, int], words: str) -> None:
    guide = _reconstruction_of(api, "misfit", network=fields)
    response = api.post(PATH, {"reconstruction_id": subject, "guidance": 2.0, "guide_id": guide})
    document = problem(response, 422, "invalid")
    assert document["detail"] == f"guide_id {guide} {words.format(subject=subject)}"
    assert [error["field"] for error in document["errors"]] == ["guide_id"]


@only("sqlite")
def test_a_run_that_kept_no_pictures_has_no_held_out_loss(api: Api) -> None:
    subject = _reconstruction_of(api, "all-in", dataset={"held_out": 0})
    both = {"reconstruction_id": subject, "metrics": ["frechet", "held_out_loss"]}
    document = problem(api.post(PATH, both), 422, "invalid")
    assert [error["field"] for error in document["errors"]] == ["metrics"]
    assert document["detail"] == (
        f"metrics names held_out_loss, but the run of {subject} has dataset.held_out 0: it kept no pictures for that, "
        "only frechet is allowed"
    )
    asked = api.post(PATH, {"reconstruction_id": subject, "metrics": ["frechet"]})
    assert asked.status_code == 202
    by_default = api.post(PATH, {"reconstruction_id": subject}).json()
    assert (by_default["id"], by_default["recipe"]["metrics"]) == (asked.json()["id"], ["frechet"])


@only("sqlite")
def test_all_figures_are_computed_by_default(api: Api, subject: str) -> None:
    asked = api.post(PATH, {"reconstruction_id": subject}).json()
    assert asked["recipe"] == EvaluationRecipe().model_dump(mode="json")
    assert asked["recipe"]["metrics"] == ["frechet", "held_out_loss"]
    named = {"reconstruction_id": subject, "metrics": ["frechet", "held_out_loss"]}
    assert api.post(PATH, named).json()["id"] == asked["id"]


@only("sqlite")
def test_every_option_of_the_sampler_is_part_of_the_question(api: Api, subject: str) -> None:
    guide = seed.reconstruction(api.catalog, api.store, seed.run(api.catalog, "guide").id).id
    options = {"guidance": 2.0, "guide_id": guide, "guidance_interval": [0.2, 1.6], "churn": 10.0}
    options |= {"churn_min": 0.05, "churn_max": 50.0, "churn_noise": 1.003}
    ids = set()
    for left_out in (None, "guidance_interval", "churn", "churn_min", "churn_max", "churn_noise"):
        body = {name: value for name, value in options.items() if name != left_out}
        asked = api.post(PATH, {"reconstruction_id": subject, **body})
        assert asked.status_code == 202
        assert body.items() <= asked.json()["recipe"].items()
        ids.add(asked.json()["id"])
    assert len(ids) == 6


@pytest.mark.parametrize(
    ("body", "fields", "words"),
    [
        ({"reconstruction_id": "rec-nobody"}, ["reconstruction_id"], "reconstruction_id 'rec-nobody' is no reconstruc"),
        ({"guide_id": "rec-nobody", "guidance": 2}, ["guide_id"], "guide_id 'rec-nobody' is no reconstruction"),
        ({"guidance": 2}, [""], "guidance 2 needs guide_id"),
        ({"num_steps": 1}, ["num_steps"], "num_steps 1 must be greater than or equal to 2"),
        ({"num_samples": 10**9}, ["num_samples"], "num_samples 1000000000 must be less than or equal to 100000"),
        ({"sigma_min": 90}, [""], "sigma_min 90 must be below sigma_max 80"),
        ({"guidance_interval": [2, 1]}, [""], "guidance_interval [2, 1] must rise"),
        (
            {"guidance_interval": [0.2, 1.6]},
            [""],
            "guidance_interval [0.2, 1.6] has no effect with guidance 1; leave it out, or give a guidance other than 1",
        ),
        (
            {"guide_id": "rec-a", "guidance": 1},
            [""],
            "guide_id rec-a has no effect with guidance 1; leave it out, or give a guidance other than 1",
        ),
        ({"churn": -1}, ["churn"], "churn -1 must be greater than or equal to 0"),
        ({"churn_min": 3, "churn_max": 2}, [""], "churn_min 3 must be below churn_max 2"),
        ({"metrics": ["fid"]}, ["metrics.0"], "metrics.0 \"fid\" must be 'frechet' or 'held_out_loss'"),
        ({"steps": 3}, ["steps"], "steps is not known here"),
    ],
)
@only("sqlite")
def test_what_is_wrong_is_refused(api: Api, subject: str, body: dict[str, Any], fields: list[str], words: str) -> None:
    document = problem(api.post(PATH, {"reconstruction_id": subject, **body}), 422, "invalid")
    assert [error["field"] for error in document["errors"]] == fields
    assert words in document["detail"]
    assert api.all(PATH) == []


def test_evaluations_are_listed_by_run_newest_first(api: Api, subject: str) -> None:
    other = seed.reconstruction(api.catalog, api.store, seed.run(api.catalog, "other").id).id
    ids = [api.post(PATH, {"reconstruction_id": subject, "seed": i}).json()["id"] for i in range(3)]
    foreign = api.post(PATH, {"reconstruction_id": other}).json()["id"]
    assert [item["id"] for item in api.all(PATH, limit=1)] == [foreign, *reversed(ids)]
    assert [item["id"] for item in api.all(PATH, run="digits", limit=2)] == list(reversed(ids))
    document = problem(api.get(PATH, params={"run": "nobody"}), 422, "invalid")
    assert document["errors"][0]["place"] == "query"
    problem(api.get(f"{PATH}/eval-nobody"), 404, "not-found")
