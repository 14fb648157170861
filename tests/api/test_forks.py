"""`/v1/runs/{run}/forks`: what is accepted and what is refused. Training is tested in `tests/trainer/test_forks.py`."""

from __future__ import annotations

from typing import Any

import pytest

from phema.shared.catalog import Run
from tests.api import seed
from tests.api.http import Api, problem

PATH = "/v1/runs/digits/forks"


@pytest.fixture
def run(api: Api) -> Run:
    created = seed.run(api.catalog)
    with api.catalog.transaction() as tx:
        for num_images in (6400, 12_800):
            tx.checkpoints.add(run_id=created.id, num_images=num_images, key=f"k{num_images}", size=1, sha256="a" * 64)
    return created


def fork(api: Api, **body: Any) -> Any:
    answer = api.post(PATH, {"name": "fork", **body})
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_a_fork_continues_the_latest_checkpoint_with_changed_settings(api: Api, run: Run) -> None:
    found = fork(api, config={"learning_rate": 0.001, "total_images": 25_600, "network": {"dropout": 0.1}})
    assert (found["state"], found["num_images"], found["total_images"]) == ("queued", 12_800, 25_600)
    assert found["config"] == {**run.config, "learning_rate": 0.001, "total_images": 25_600} | {
        "network": {**run.config["network"], "dropout": 0.1}
    }
    assert found["parent"]["run_id"] == run.id
    assert found["parent"]["num_images"] == 12_800
    assert found["parent"]["checkpoint_id"].startswith("ckpt-")
    assert found["parent"]["reconstruction_id"] is None
    assert api.get(PATH).json()["items"] == [api.get("/v1/runs/fork").json()]
    assert api.get("/v1/runs/fork/forks").json()["items"] == []
    detail = problem(api.request("DELETE", "/v1/runs/digits"), 409, "deletion-refused")["detail"]
    assert "run fork began from run digits and has no checkpoint of its own yet" in detail


def test_a_fork_of_a_reconstruction_begins_at_0(api: Api, run: Run) -> None:
    weights = seed.reconstruction(api.catalog, api.store, run.id)
    found = fork(api, reconstruction_id=weights.id, config={"ema_sigma_rels": [0.08]})
    assert (found["num_images"], found["parent"]["reconstruction_id"]) == (0, weights.id)
    assert found["config"]["ema_sigma_rels"] == [0.08]


def test_the_same_key_makes_one_fork(api: Api, run: Run) -> None:
    first, second = (
        api.post(PATH, {"name": "fork", "num_images": 6400}, headers={"Idempotency-Key": "once"}) for _ in range(2)
    )
    assert first.json() == second.json()


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"network": {"model_channels": 64}}, "config.network.model_channels 64 must stay"),
        ({"ema_sigma_rels": [0.08]}, "config.ema_sigma_rels [0.08] must stay [0.05, 0.1]"),
        ({"total_images": 6400}, "config.total_images 6400 must be more than 6400"),
        ({"preset": "other"}, "config.preset cannot be changed; a fork keeps that of run digits"),
        ({"learning_rat": 1}, "config.learning_rat"),
        ({"learning_rate": -1}, "config.learning_rate must be greater than 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused_one_by_one(
    api: Api, run: Run, config: dict[str, Any], sentence: str
) -> None:
    found = problem(api.post(PATH, {"name": "fork", "num_images": 6400, "config": config}), 422, "invalid")
    assert any(sentence in error["detail"] for error in found["errors"]), found["errors"]


def test_origins_that_do_not_exist(api: Api, run: Run) -> None:
    other = seed.run(api.catalog, "other")
    foreign = seed.reconstruction(api.catalog, api.store, other.id)
    for body, sentence in (
        ({"num_images": 7000}, "num_images 7000 has no checkpoint of run digits; the nearest are at 6400, 12800"),
        ({"reconstruction_id": foreign.id}, f"belongs to run {other.id}, not to digits"),
        ({"reconstruction_id": "rec-none"}, "is no reconstruction"),
        ({"num_images": 6400, "reconstruction_id": foreign.id}, "give one of them"),
    ):
        assert sentence in problem(api.post(PATH, {"name": "fork", **body}), 422, "invalid")["detail"]
    detail = problem(api.post("/v1/runs/other/forks", {"name": "fork"}), 409, "not-finished")["detail"]
    assert "run other has no checkpoint yet; the first is written after" in detail
    api.post("/v1/runs/external", {"name": "mine", "config": {"model": "x"}})
    detail = problem(api.post("/v1/runs/mine/forks", {"name": "fork"}), 422, "invalid")["detail"]
    assert "run mine was not trained by phema and has no checkpoints" in detail
    problem(api.post(PATH, {"name": "other"}), 409, "name-taken")
    problem(api.post("/v1/runs/nobody/forks", {"name": "fork"}), 404, "not-found")


def test_a_run_that_will_be_deleted_has_no_new_forks(api: Api, run: Run) -> None:
    assert api.request("DELETE", "/v1/runs/digits").status_code == 202
    problem(api.post(PATH, {"name": "fork"}), 409, "run-will-be-deleted")
