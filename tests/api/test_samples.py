"""`/v1/samples`: pictures that are drawn without scoring them."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from phema.shared.catalog import JobKind
from phema.shared.recipes.sample_request import SampleRequest
from phema.shared.snapshots.stores.object_keys import sample_key
from tests.api import seed
from tests.api.http import Api, problem
from tests.api.test_evaluations import _reconstruction_of as reconstruction_of
from tests.fixtures.catalog import only

PATH = "/v1/samples"


@pytest.fixture
def subject(api: Api) -> str:
    """Id of a finished reconstruction."""
    return seed.reconstruction(api.catalog, api.store, seed.run(api.catalog).id).id


def finish(api: Api, data: bytes = b"pictures") -> str:
    """Do the oldest queued sample as a worker would; returns its id."""
    job = seed.claim(api.catalog, JobKind.SAMPLE)
    info = api.store.put(sample_key(job.payload["sample_id"], f"{job.id}-1", "png"), data)
    result = {"key": info.key, "size": info.size, "sha256": hashlib.sha256(data).hexdigest()}
    with api.catalog.transaction() as tx:
        tx.samples.complete(job.payload["sample_id"], result)
        tx.leases.succeed(job.id, job.fence, {})
    return str(job.payload["sample_id"])


@pytest.mark.parametrize(
    ("method", "path"), [("POST", PATH), ("GET", PATH), ("GET", f"{PATH}/smp-1"), ("GET", f"{PATH}/smp-1/file")]
)
@only("sqlite")
def test_anonymous_gets_401(guarded: Api, method: str, path: str) -> None:
    problem(guarded.anonymous(method, path), 401, "unauthorized")


def test_pictures_are_asked_for_drawn_and_downloaded(api: Api, subject: str) -> None:
    response = api.post(PATH, {"reconstruction_id": subject, "seeds": [0, 1, 2, 9], "class_label": "3"})
    assert response.status_code == 202
    asked = response.json()
    assert asked["request"] == SampleRequest(seeds=(0, 1, 2, 9), class_label=3).model_dump(mode="json")
    assert (asked["request"]["seeds"], asked["num_pictures"]) == ("0-2,9", 4)
    assert (asked["state"], asked["size"], asked["sigma_rel"]) == ("queued", None, 0.07)
    problem(api.get(f"{PATH}/{asked['id']}/file"), 409, "not-finished")
    assert finish(api) == asked["id"]
    found = api.get(f"{PATH}/{asked['id']}").json()
    assert (found["state"], found["size"], found["error"]) == ("succeeded", 8, None)
    file = api.get(f"{PATH}/{asked['id']}/file")
    assert (file.content, file.headers["content-type"]) == (b"pictures", "image/png")
    assert file.headers["etag"] == f'"{found["sha256"]}"'
    assert file.headers["content-disposition"] == f'inline; filename="{asked["id"]}.png"'


def test_the_same_request_is_drawn_once(api: Api, subject: str) -> None:
    first = api.post(PATH, {"reconstruction_id": subject, "seeds": "0-3", "class_label": None}).json()
    same = api.post(PATH, {"reconstruction_id": subject, "seeds": [0, 1, 2, 3], "class_label": "none", "num_steps": 32})
    assert (same.status_code, same.json()["id"]) == (202, first["id"])
    others = [{"seeds": "1-4"}, {"class_label": 1}, {"format": "npz"}, {"columns": 4}, {"churn": 1.0}, {"rho": 5.0}]
    for other in others:
        body = {"reconstruction_id": subject, "seeds": "0-3", "class_label": None, **other}
        assert api.post(PATH, body).json()["id"] != first["id"]
    finish(api)
    done = api.post(PATH, {"reconstruction_id": subject, "seeds": "0-3", "class_label": None})
    assert (done.status_code, done.json()["state"]) == (200, "succeeded")
    with api.catalog.transaction() as tx:
        assert len(tx.jobs.list(kind=JobKind.SAMPLE).items) == 1 + len(others)


def test_what_failed_may_be_asked_for_again(api: Api, subject: str) -> None:
    first = api.post(PATH, {"reconstruction_id": subject}).json()
    job = seed.claim(api.catalog, JobKind.SAMPLE)
    with api.catalog.transaction() as tx:
        tx.leases.fail(job.id, job.fence, "the network gives NaN", retry=False)
    failed = api.get(f"{PATH}/{first['id']}").json()
    assert (failed["state"], failed["error"]) == ("failed", "the network gives NaN")
    again = api.post(PATH, {"reconstruction_id": subject}).json()
    assert (again["id"], again["state"]) == (first["id"], "queued")


@only("sqlite")
def test_a_guide_comes_from_any_run_whose_pictures_fit(api: Api, subject: str) -> None:
    guide = seed.reconstruction(api.catalog, api.store, seed.run(api.catalog, "guide").id).id
    body = {"reconstruction_id": subject, "guidance": 2.0, "guide_id": guide, "guidance_interval": [0.2, 1.6]}
    assert api.post(PATH, body).json()["request"]["guide_id"] == guide
    misfit = reconstruction_of(api, "misfit", network={"label_dim": 3})
    document = problem(api.post(PATH, body | {"guide_id": misfit}), 422, "invalid")
    assert document["detail"] == f"guide_id {misfit} has label_dim 3; to guide {subject} it must be 10 or 0"


@pytest.mark.parametrize(
    ("body", "fields", "words"),
    [
        ({"reconstruction_id": "rec-nobody"}, ["reconstruction_id"], "reconstruction_id 'rec-nobody' is no reconstruc"),
        ({"seeds": "0-"}, ["seeds"], "seeds has the part '0-'; parts are seeds or ranges, such as 0-63,100"),
        ({"seeds": [1, 1]}, ["seeds"], "seeds names the seed 1 twice; each may be named once"),
        ({"seeds": "0-1024"}, [""], "seeds names 1,025 pictures; a grid holds at most 1,024"),
        ({"class_label": 10}, ["class_label"], "class_label 10 is no class of this network; allowed: 0 to 9, random"),
        ({"class_label": "cat"}, ["class_label"], "class_label 'cat' is no class of this network"),
        ({"format": "gif"}, ["format"], "format \"gif\" must be 'grid', 'zip', 'npy' or 'npz'"),
        ({"columns": 0}, ["columns"], "columns 0 must be greater than or equal to 1"),
        ({"columns": 2, "format": "zip"}, [""], "columns 2 has no effect with format zip; leave it out"),
        ({"guidance_interval": [0.2, 1.6]}, [""], "guidance_interval [0.2, 1.6] has no effect with guidance 1"),
        ({"num_samples": 3}, ["num_samples"], "num_samples is not known here"),
    ],
)
@only("sqlite")
def test_what_is_wrong_is_refused(api: Api, subject: str, body: dict[str, Any], fields: list[str], words: str) -> None:
    document = problem(api.post(PATH, {"reconstruction_id": subject, **body}), 422, "invalid")
    assert [error["field"] for error in document["errors"]] == fields
    assert words in document["detail"]
    assert api.all(PATH) == []


@only("sqlite")
def test_classes_of_a_users_own_dataset_may_have_names(api: Api) -> None:
    own = {"name": "animals", "path": "/data/animals", "held_out": 0}
    subject = reconstruction_of(api, "animals", dataset=own, network={"label_dim": 3})
    asked = api.post(PATH, {"reconstruction_id": subject, "class_label": "tabby cat"})
    assert (asked.status_code, asked.json()["request"]["class_label"]) == (202, "tabby cat")


def test_samples_are_listed_by_run_newest_first(api: Api, subject: str) -> None:
    other = seed.reconstruction(api.catalog, api.store, seed.run(api.catalog, "other").id).id
    ids = [api.post(PATH, {"reconstruction_id": subject, "seeds": [i]}).json()["id"] for i in range(3)]
    foreign = api.post(PATH, {"reconstruction_id": other}).json()["id"]
    assert [item["id"] for item in api.all(PATH, limit=1)] == [foreign, *reversed(ids)]
    assert [item["id"] for item in api.all(PATH, run="digits", limit=2)] == list(reversed(ids))
    problem(api.get(PATH, params={"run": "nobody"}), 422, "invalid")
    problem(api.get(f"{PATH}/smp-nobody"), 404, "not-found")
