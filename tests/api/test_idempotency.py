"""Idempotency-Key on every POST that creates something; test_process.py kills the API in between."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from phema.shared.catalog import JobKind
from tests.api import seed
from tests.api.http import Api, problem
from tests.fixtures.catalog import only

RUN = {"name": "digits", "preset": "digits-tiny"}
KEY = {"Idempotency-Key": "8f14e45f-ceea-467f"}


@only("sqlite")
@pytest.mark.parametrize("path", ["/v1/runs", "/v1/runs/digits/reconstructions", "/v1/evaluations"])
def test_anonymous_gets_401(guarded: Api, path: str) -> None:
    response = guarded.anonymous("POST", path, json=RUN, headers={**KEY, "Authorization": "Bearer wrong"})
    problem(response, 401, "unauthorized")


def _questions(api: Api) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Path, body, and another body for it, of every POST that creates something."""
    run = seed.trained(api.catalog, api.store, "trained")
    subject = seed.reconstruction(api.catalog, api.store, run.id).id
    return [
        ("/v1/runs", RUN, {**RUN, "name": "other"}),
        ("/v1/runs/trained/reconstructions", {"sigma_rel": [0.08]}, {"sigma_rel": 0.09}),
        ("/v1/evaluations", {"reconstruction_id": subject}, {"reconstruction_id": subject, "seed": 1}),
    ]


def test_a_repeat_gets_the_same_answer_and_does_nothing(api: Api) -> None:
    for number, (path, body, _) in enumerate(_questions(api)):
        headers = {"Idempotency-Key": f"key-{number}"}
        first = api.post(path, body, headers=headers)
        assert first.status_code in (201, 202)
        assert "idempotency-replayed" not in first.headers
        with api.catalog.transaction() as tx:
            jobs = len(tx.jobs.list().items)
            # The resource changes meanwhile; the saved answer does not.
            queued = tx.jobs.list().items[0]
            tx.jobs.request_cancel(queued.id)
        again = api.post(path, body, headers=headers)
        assert (again.status_code, again.content) == (first.status_code, first.content)
        assert again.headers["idempotency-replayed"] == "true"
        with api.catalog.transaction() as tx:
            assert len(tx.jobs.list().items) == jobs


def test_a_key_is_for_one_request(api: Api) -> None:
    questions = _questions(api)
    for number, (path, body, other) in enumerate(questions):
        headers = {"Idempotency-Key": f"key-{number}"}
        assert api.post(path, body, headers=headers).status_code in (201, 202)
        document = problem(api.post(path, other, headers=headers), 422, "key-reused")
        assert f"'key-{number}' was used for another request" in document["detail"]
    # The same body elsewhere is another request, too.
    problem(api.post("/v1/runs", RUN, headers={"Idempotency-Key": "key-1"}), 422, "key-reused")


def test_how_a_request_is_written_does_not_count(api: Api) -> None:
    headers = {**KEY, "Content-Type": "application/json"}
    first = api.request("POST", "/v1/runs", content='{"name":"digits","preset":"digits-tiny"}', headers=headers)
    again = api.request("POST", "/v1/runs", content='{ "preset": "digits-tiny",\n "name": "digits" }', headers=headers)
    assert again.content == first.content


def test_a_refused_request_does_not_take_the_key(api: Api) -> None:
    problem(api.post("/v1/runs", {**RUN, "preset": "nothing"}, headers=KEY), 422, "invalid")
    seed.run(api.catalog, "digits")
    problem(api.post("/v1/runs", RUN, headers=KEY), 409, "name-taken")
    assert api.post("/v1/runs", {**RUN, "name": "free"}, headers=KEY).status_code == 201


def test_without_a_key_every_request_counts(api: Api) -> None:
    assert api.post("/v1/runs", RUN).status_code == 201
    problem(api.post("/v1/runs", RUN), 409, "name-taken")


def test_a_plan_takes_no_key(api: Api) -> None:
    seed.trained(api.catalog, api.store)
    path = "/v1/runs/digits/reconstructions"
    planned = api.post(path, {"sigma_rel": 0.07, "plan_only": True}, headers=KEY)
    assert planned.status_code == 200
    assert api.post(path, {"sigma_rel": 0.07}, headers=KEY).status_code == 202


@only("sqlite")
@pytest.mark.parametrize("key", ["", "x" * 201, "with space", "\u00fcmlaut"])
def test_a_key_that_is_none_is_refused(api: Api, key: str) -> None:
    response = api.post("/v1/runs", RUN, headers={"Idempotency-Key": key.encode()})
    document = problem(response, 422, "invalid")
    assert (document["errors"][0]["place"], document["errors"][0]["field"]) == ("header", "Idempotency-Key")


def test_repeats_at_the_same_time_are_one(api: Api) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: api.post("/v1/runs", RUN, headers=KEY), range(8)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 7
    with api.catalog.transaction() as tx:
        assert len(tx.runs.list().items) == len(tx.jobs.list(kind=JobKind.TRAIN).items) == 1


def test_the_same_question_with_other_keys_at_the_same_time_is_one_job(api: Api) -> None:
    """Requests with different idempotency keys still share work through the content key."""
    seed.trained(api.catalog, api.store)
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(
                lambda i: api.post(
                    "/v1/runs/digits/reconstructions", {"sigma_rel": [0.07, 0.08]}, headers={"Idempotency-Key": f"k{i}"}
                ).json(),
                range(8),
            )
        )
    assert sum(answer["job"] is not None for answer in answers) == 1
    assert len({tuple(o["id"] for o in answer["reconstructions"]) for answer in answers}) == 1
    with api.catalog.transaction() as tx:
        assert len(tx.jobs.list(kind=JobKind.RECONSTRUCT).items) == 1
