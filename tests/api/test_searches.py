"""`/v1/searches`; the worker's side is in tests/phema_worker/test_searching.py."""

from __future__ import annotations

from typing import Any

import pytest

from phema.shared.catalog import JobKind, StudyKind
from phema.shared.studies.search_spec import SearchSpec
from tests.api import seed
from tests.api.http import Api, problem
from tests.fixtures.catalog import only

PATH = "/v1/searches"
REQUEST = {"run": "digits", "sigma_rel": [0.02, 0.25], "budget": 2000}
GUIDE = {"sigma_rel": [0.1, 0.25]}


@pytest.fixture
def trained(api: Api) -> str:
    return seed.trained(api.catalog, api.store).id


@pytest.mark.parametrize(("method", "path"), [("POST", PATH), ("GET", PATH), ("GET", f"{PATH}/search-1")])
@only("sqlite")
def test_anonymous_gets_401(guarded: Api, method: str, path: str) -> None:
    problem(guarded.anonymous(method, path), 401, "unauthorized")


def test_a_search_is_asked_for_and_shown(api: Api, trained: str) -> None:
    response = api.post(PATH, REQUEST)
    assert response.status_code == 202
    asked = response.json()
    assert (asked["run_id"], asked["state"], asked["result"]) == (trained, "queued", None)
    assert asked["spec"]["num_images"] == 25_600, "the latest time is written down"
    assert asked["spec"]["figure"] == "frechet_digits"
    assert asked["job"]["kind"] == "search"
    found = api.get(f"{PATH}/{asked['id']}").json()
    assert found == asked | {"points": []}
    assert api.all(PATH, run="digits") == [asked]
    assert api.post(PATH, REQUEST | {"run": trained, "seed": 0}).json()["id"] == asked["id"]
    with api.catalog.transaction() as tx:
        assert len(tx.jobs.list(kind=JobKind.SEARCH).items) == 1


@only("sqlite")
def test_points_and_answer_are_shown(api: Api, trained: str) -> None:
    search = api.post(PATH, REQUEST | {"guidance": [1, 2], "guide": GUIDE}).json()["id"]
    with api.catalog.transaction() as tx:
        study = tx.studies.get(search, StudyKind.SEARCH)
        spec = SearchSpec.model_validate(study.spec)
        for number, point in enumerate([(0.1, 0.2, 1.5), (0.1, 0.2, 1.0)]):
            row = spec.point(study.run_id, point, 300, 7)
            assert (row.guide is None) == (point[2] == 1), "guidance 1 has no guide"
            tx.studies.add_point(study.id, number, row.model_dump(mode="json"), stage=2)
        tx.studies.set_point(study.id, 1, error="its network is broken")
    first, second = api.get(f"{PATH}/{search}").json()["points"]
    assert first["point"] == {"sigma_rel": 0.1, "guide.sigma_rel": 0.2, "guidance": 1.5}
    assert (first["step"], first["num_samples"], first["seed"], first["state"]) == (2, 300, 7, "queued")
    assert (second["state"], second["error"]) == ("failed", "its network is broken")


MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    ({"sigma_rel": [0.2, 0.1]}, "sigma_rel", "sigma_rel [0.2, 0.1] is no range; its second entry must be larger"),
    ({"budget": 100}, "budget", "budget is 100 pictures; this search needs at least 608, "),
    ({"figure": "beauty"}, "figure", "figure 'beauty' is unknown; allowed are frechet_digits, "),
    (
        {"figure": "held_out_loss"},
        "figure",
        "figure held_out_loss is computed without pictures, so a search by pictures has nothing to decide; use a sweep",
    ),
    (
        {"figure": "fid"},
        "budget",
        "budget is 2000 pictures; this search needs at least 19208, since each of its points",
    ),
    ({"guidance": [1, 2]}, "guide", "guidance is given without guide; give both, or leave both out"),
    ({"guide": {"sigma_rel": 0.2}}, "guidance", "guide is given without guidance; give both, or leave both out"),
    ({"guidance_interval": [0.2, 1]}, "guidance_interval", "guidance_interval has no effect without guidance; leave"),
    (
        {"guidance": [0.5, 1], "guide": GUIDE, "guidance_interval": [5, 1]},
        "",
        "guidance_interval [5, 1] must rise from its first to its second entry",
    ),
    (
        {"guidance": [1, 2], "guide": {"sigma_rel": [0.2, 0.1]}},
        "guide.sigma_rel",
        "guide.sigma_rel [0.2, 0.1] must rise, or be one value",
    ),
    ({"guidance": [1, 2], "guide": GUIDE | {"run": "nobody"}}, "guide.run", "guide.run 'nobody' is neither the id"),
    (
        {"guidance": [1, 2], "guide": GUIDE | {"num_images": 7}},
        "guide.num_images",
        "guide.num_images 7 has no snapshot",
    ),
    ({"num_images": 6000}, "num_images", "num_images 6000 has no snapshot; the nearest are"),
    ({"run": "nobody"}, "run", "run 'nobody' is neither the id nor the name of a run"),
    ({"num_steps": 1}, "num_steps", "num_steps 1 must be greater than or equal to 2"),
    ({"churn_min": 2, "churn_max": 1}, "", "churn_min 2 must be below churn_max 1"),
    ({"seed": 2**31 - 2000}, "seed", "seed 2147481648 must be below 2147479648 for a budget of 2000"),
]


@pytest.mark.parametrize(("changes", "field", "sentence"), MISTAKES, ids=[m[2][:40] for m in MISTAKES])
@only("sqlite")
def test_mistakes_are_one_sentence_before_any_work(
    api: Api, trained: str, changes: dict[str, Any], field: str, sentence: str
) -> None:
    found = problem(api.post(PATH, REQUEST | changes), 422, "invalid")
    assert [error["field"] for error in found["errors"]] == [field]
    assert sentence in found["detail"]
    with api.catalog.transaction() as tx:
        assert not tx.jobs.list(kind=JobKind.SEARCH).items
