"""`/v1/evaluations`; the pictures are in test_downloads.py."""

from __future__ import annotations

from typing import Any

import pytest

from phema.services.phema_worker.finished_weights import ImpossibleJob
from phema.services.phema_worker.job_tasks import begin_task
from phema.shared.catalog import JobKind
from phema.shared.metrics.registry import METRICS
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


def _waiting(api: Api) -> tuple[str, str]:
    """(id of a queued reconstruction's job, id of the job of an evaluation that needs it)."""
    seed.trained(api.catalog, api.store)
    asked = api.post("/v1/runs/digits/reconstructions", {"sigma_rel": 0.07}).json()
    evaluation = api.post(PATH, {"reconstruction_id": asked["reconstructions"][0]["id"]})
    assert evaluation.status_code == 202
    return asked["job"]["id"], evaluation.json()["job_id"]


def test_an_evaluation_waits_for_its_weights(api: Api) -> None:
    weights, job = _waiting(api)
    needed = api.get(f"/v1/jobs/{job}").json()["needs"]
    assert [(one["id"], one["kind"], one["state"]) for one in needed] == [(weights, "reconstruct", "queued")]
    assert [one["id"] for one in api.get(f"/v1/jobs/{weights}").json()["needed_by"]] == [job]
    with api.catalog.transaction() as tx:
        assert tx.leases.claim([JobKind.EVALUATE], owner="test", lease_seconds=60) is None
    seed.finish_reconstructions(api.catalog, api.store)
    assert seed.claim(api.catalog, JobKind.EVALUATE).id == job


@pytest.mark.parametrize(("end", "says"), [("failed", "failed: out of luck"), ("cancelled", "was cancelled")])
def test_an_evaluation_ends_at_once_when_its_weights_cannot_be_made(api: Api, end: str, says: str) -> None:
    weights, job = _waiting(api)
    if end == "failed":
        claimed = seed.claim(api.catalog, JobKind.RECONSTRUCT)
        with api.catalog.transaction() as tx:
            tx.leases.fail(claimed.id, claimed.fence, "out of luck", retry=False)
    else:
        api.post(f"/v1/jobs/{weights}/cancel")
    claimed = seed.claim(api.catalog, JobKind.EVALUATE)
    assert claimed.id == job
    with api.catalog.transaction() as tx, pytest.raises(ImpossibleJob, match=f"because its job {weights} {says}"):
        begin_task(tx, claimed)


def test_a_failed_reconstruction_cannot_be_evaluated(api: Api) -> None:
    seed.trained(api.catalog, api.store)
    asked = api.post("/v1/runs/digits/reconstructions", {"sigma_rel": 0.07}).json()
    api.post(f"/v1/jobs/{asked['job']['id']}/cancel")
    identity = asked["reconstructions"][0]["id"]
    document = problem(api.post(PATH, {"reconstruction_id": identity}), 409, "not-finished")
    assert document["detail"].startswith(f"reconstruction_id: reconstruction {identity} has cancelled")


def test_a_tree_of_jobs_is_cancelled_together(api: Api) -> None:
    weights, job = _waiting(api)
    assert api.post(f"/v1/jobs/{weights}/cancel?tree=true").json()["state"] == "cancelled"
    found = api.get(f"/v1/jobs/{job}").json()
    assert (found["state"], found["error"]) == (
        "cancelled",
        f"The reconstruct job {weights}, which it needs, was cancelled.",
    )
    with api.catalog.transaction() as tx:
        assert tx.leases.claim([JobKind.EVALUATE, JobKind.RECONSTRUCT], owner="test", lease_seconds=60) is None


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
        "metrics names held_out_loss, but dataset.held_out of the run is 0, so no pictures were kept from training for "
        f"it; {', '.join(name for name in METRICS if name != 'held_out_loss')} are allowed"
    )
    asked = api.post(PATH, {"reconstruction_id": subject, "metrics": ["frechet_digits", "frechet"]})
    assert asked.status_code == 202
    by_default = api.post(PATH, {"reconstruction_id": subject}).json()
    assert (by_default["id"], by_default["recipe"]["metrics"]) == (asked.json()["id"], ["frechet_digits", "frechet"])


@only("sqlite")
def test_the_usual_metrics_of_the_dataset_are_computed_by_default(api: Api, subject: str) -> None:
    asked = api.post(PATH, {"reconstruction_id": subject}).json()
    usual = ["frechet_digits", "frechet", "held_out_loss"]
    assert asked["recipe"] == EvaluationRecipe().model_dump(mode="json") | {"metrics": usual}
    named = {"reconstruction_id": subject, "metrics": usual}
    assert api.post(PATH, named).json()["id"] == asked["id"]
    few = api.post(PATH, {"reconstruction_id": subject, "num_samples": 64}).json()
    assert few["recipe"]["metrics"] == ["frechet", "held_out_loss"]


@only("sqlite")
@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({"metrics": ["frechet_digits"], "num_samples": 64}, "num_samples", "metric frechet_digits needs at least 65"),
        ({"metrics": []}, "metrics", "metrics is empty; name at least one of frechet_digits, "),
        ({"num_samples": 1, "metrics": ["frechet"]}, "num_samples", "metric frechet needs at least 2"),
    ],
)
def test_metrics_that_do_not_fit_are_refused(
    api: Api, subject: str, body: dict[str, Any], field: str, words: str
) -> None:
    document = problem(api.post(PATH, {"reconstruction_id": subject, **body}), 422, "invalid")
    assert [error["field"] for error in document["errors"]] == [field]
    assert words in document["detail"]
    assert api.all(PATH) == []


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
        ({"metrics": ["fidd"]}, ["metrics.0"], "metrics.0 \"fidd\" must be 'frechet_digits', 'fid', "),
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
