"""`/v1/models`: promotions, their versions, cards and files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sqlalchemy import update

from phema.shared.catalog import BeingDeleted
from phema.shared.catalog.column_types import new_id
from phema.shared.catalog.models import Deletion
from phema.shared.catalog.repositories.deletions import CLAIM_SECONDS
from phema.shared.model_records.record import ModelRecord
from phema.shared.service_runtime.object_deletion import delete_listed
from phema.shared.settings import Settings
from phema.shared.snapshots.stores.object_keys import model_key
from phema.shared.submissions import models
from tests.api import seed
from tests.api.http import Api, problem
from tests.api.promotable import evaluate, weights
from tests.fixtures.catalog import only

PATH = "/v1/models"


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", PATH), ("GET", PATH), *(("GET", f"{PATH}/m{rest}") for rest in ("", "/card", "/config", "/download"))],
)
@only("sqlite")
def test_anonymous_gets_401(guarded: Api, method: str, path: str) -> None:
    problem(guarded.anonymous(method, path), 401, "unauthorized")


def test_a_promotion_keeps_figures_errors_and_lineage(api: Api) -> None:
    subject, guide = weights(api), weights(api, "guide", 0.13)
    evaluate(api, subject, {"frechet": 1.5}, num_samples=64, guidance=2.0, guide_id=guide.id)
    evaluate(api, subject, {"frechet": float("nan")}, num_samples=32, guide_id=None)
    body = {"name": "best", "reconstruction_id": subject.id, "description": "The **best** digits."}
    response = api.post(PATH, body)
    assert response.status_code == 201
    made = response.json()
    assert (made["name"], made["version"], made["reference"], made["run"]) == ("best", 1, "best:1", "digits")
    assert (made["sha256"], made["size"], made["sigma_rel"]) == (subject.sha256, subject.size, 0.07)
    assert (made["weights_code_version"], made["num_images"]) == ("0.0.7", 25_600)
    assert [s["sha256"] for s in made["lineage"]["snapshots"]] == ["1" * 64, "2" * 64]
    assert made["lineage"]["coefficients"] == [0.25, 0.75]
    first, second = made["evaluations"]
    assert (first["figures"], first["errors"]) == ({"frechet": 1.5}, {"frechet": 0.0126})
    assert first["guide"] == {"run": "guide", "num_images": 25_600, "label": "0.13", "sha256": guide.sha256}
    assert (first["recipe"], first["provenance"]) == ({"num_samples": 64, "guidance": 2.0}, {"extractor": "random"})
    assert (second["figures"], second["guide"]) == ({"frechet": None}, None)
    assert made["network"]["label_dim"] == 10
    for reference in ("best", "best:1", made["id"]):
        assert api.get(f"{PATH}/{reference}").json() == made
    with api.catalog.transaction() as tx:
        row = tx.models.get("best")
        assert tx.deletions.keys() == set()
    assert ModelRecord.model_validate_json(api.store.get(model_key(made["id"]))).model_dump(mode="json") == row.document


def test_card_config_and_weights_of_a_model(api: Api) -> None:
    subject = weights(api)
    evaluate(api, subject, {"frechet": 1.5}, num_samples=64)
    api.post(PATH, {"name": "best", "reconstruction_id": subject.id, "description": "The **best** digits."})
    card = api.get(f"{PATH}/best/card")
    assert card.headers["content-type"] == "text/markdown; charset=utf-8"
    lines = card.text.splitlines()
    assert "# best, version 1" in lines
    assert "The **best** digits." in lines
    assert "| `frechet` | 1.500 ± 0.013 | lower |" in lines
    assert 'Recipe: `{"num_samples": 64}`.' in lines
    assert ' "extractor": "random"' in lines
    assert "| Training time | 25,600 of 76,800 images |" in lines
    assert f"| SHA-256 of the weights | `{subject.sha256}` |" in lines
    assert any(line.startswith("| 6,400 |") and line.endswith(f"| 0.75 | `{'2' * 64}` |") for line in lines)
    config = api.get(f"{PATH}/best:1/config").json()
    assert (config["model"], config["network"]["img_resolution"]) == ("best:1", 8)
    file = api.get(f"{PATH}/best/download")
    assert hashlib.sha256(file.content).hexdigest() == subject.sha256
    assert file.headers["content-disposition"] == 'attachment; filename="best-1.safetensors"'
    part = api.get(f"{PATH}/best/download", headers={"Range": "bytes=0-7"})
    assert (part.status_code, part.content) == (206, file.content[:8])


def test_versions_count_what_is_new(api: Api) -> None:
    subject = weights(api)
    body = {"name": "best", "reconstruction_id": subject.id}
    first = api.post(PATH, body).json()
    same = api.post(PATH, body)
    assert (same.status_code, same.json()) == (200, first)
    with api.catalog.transaction() as tx:
        tx.runs.set_progress(subject.run_id, 30_000)
    later = api.post(PATH, body)
    assert (later.status_code, later.json()) == (200, first), "the run trained on; the weights are the same"
    evaluate(api, subject, {"frechet": 1.5}, num_samples=64)
    second = api.post(PATH, body)
    assert (second.status_code, second.json()["version"]) == (201, 2)
    assert api.post(PATH, body | {"name": "other"}).json()["reference"] == "other:1"
    again = weights(api, sigma_rel=0.13)
    third = api.post(PATH, body | {"reconstruction_id": again.id}).json()
    assert (third["reference"], third["sha256"]) == ("best:3", again.sha256)
    assert api.get(f"{PATH}/best").json()["version"] == 3
    assert api.get(f"{PATH}/best:1").json()["evaluations"] == []
    assert [item["reference"] for item in api.all(PATH, limit=1)] == ["best:3", "other:1", "best:2", "best:1"]
    assert [item["reference"] for item in api.all(PATH, name="best", limit=2)] == ["best:3", "best:2", "best:1"]
    assert api.all(PATH, run="digits", name="other")[0]["reference"] == "other:1"
    problem(api.get(PATH, params={"run": "nobody"}), 422, "invalid")
    for unknown in ("best:4", "nobody", "mdl-0"):
        problem(api.get(f"{PATH}/{unknown}"), 404, "not-found")


def test_promotions_at_once_get_versions_of_their_own(api: Api) -> None:
    subjects = [weights(api, sigma_rel=0.05 + i / 100) for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda row: api.post(PATH, {"name": "best", "reconstruction_id": row.id}), subjects))
    assert [answer.status_code for answer in answers] == [201] * 4
    assert sorted(answer.json()["version"] for answer in answers) == [1, 2, 3, 4]
    assert {a.json()["sha256"] for a in answers} == {row.sha256 for row in subjects}


def test_a_repeated_request_promotes_once(api: Api) -> None:
    subject = weights(api)
    body, headers = {"name": "best", "reconstruction_id": subject.id}, {"Idempotency-Key": "once"}
    first = api.post(PATH, body, headers=headers)
    evaluate(api, subject, {"frechet": 1.5}, num_samples=64)
    again = api.post(PATH, body, headers=headers)
    assert (again.status_code, again.json()) == (201, first.json())
    assert len(api.all(PATH)) == 1


def test_a_promotion_that_dies_between_record_and_row_leaves_nothing(api: Api) -> None:
    subject = weights(api)
    with api.catalog.transaction() as tx:
        record = models.draft(tx, new_id("mdl"), "best", subject.id, None, 0.0)
        key = models.hold_record(tx, record)
    api.store.put(key, record.model_dump_json().encode())
    assert delete_listed(api.catalog, api.store) == 0, "it may still be at work"
    with api.catalog.transaction() as tx:
        with pytest.raises(BeingDeleted):
            tx.deletions.expect("job-1", [key])
        late = Deletion.claimed_at - 0.6 * CLAIM_SECONDS
        tx.deletions._session.execute(update(Deletion).values(claimed_at=late))
    with api.catalog.transaction() as tx, pytest.raises(models.PromotionOvertaken):
        models.promote(tx, record, subject.id)
    with api.catalog.transaction() as tx:
        tx.deletions._session.execute(update(Deletion).values(claimed_at=late))
    assert delete_listed(api.catalog, api.store) == 1
    assert api.store.head(key) is None


@pytest.mark.parametrize(
    ("body", "fields", "words"),
    [
        ({"name": "a b"}, ["name"], 'name "a b" must match pattern'),
        ({"name": "rec-1"}, ["name"], "name 'rec-1' looks like an id; names must not begin with mdl- or rec-"),
        ({"name": "a:2"}, ["name"], 'name "a:2" must match pattern'),
        ({"reconstruction_id": "rec-nobody"}, ["reconstruction_id"], "reconstruction_id 'rec-nobody' is no reconstruc"),
        ({"description": ""}, ["description"], 'description "" must have at least 1 character'),
        ({"version": 3}, ["version"], "version is not known here"),
    ],
)
@only("sqlite")
def test_what_is_wrong_is_refused(api: Api, body: dict[str, Any], fields: list[str], words: str) -> None:
    asked = {"name": "best", "reconstruction_id": weights(api).id, **body}
    document = problem(api.post(PATH, asked), 422, "invalid")
    assert [error["field"] for error in document["errors"]] == fields
    assert words in document["detail"]
    assert api.all(PATH) == []
    assert list(api.store.list("models/")) == []


@only("sqlite")
def test_only_weights_that_are_there_are_promoted(api: Api) -> None:
    seed.trained(api.catalog, api.store)
    asked = api.post("/v1/runs/digits/reconstructions", {"sigma_rel": 0.07}).json()["reconstructions"][0]
    body = {"name": "best", "reconstruction_id": asked["id"]}
    document = problem(api.post(PATH, body), 409, "not-finished")
    assert document["detail"].startswith(f"reconstruction_id: reconstruction {asked['id']} is queued; wait until")
    lost = weights(api, "other")
    api.store.delete(str(lost.key))
    problem(api.post(PATH, {"name": "best", "reconstruction_id": lost.id}), 500, "damaged-object")


@only("sqlite")
def test_with_s3_the_weights_come_from_the_bucket(
    open_api: Callable[[Settings], Api], settings: Settings, s3_settings: dict[str, Any]
) -> None:
    api = open_api(settings.model_copy(update=s3_settings))
    subject = weights(api)
    made = api.post(PATH, {"name": "best", "reconstruction_id": subject.id})
    assert made.status_code == 201
    answer = api.get(f"{PATH}/best/download")
    assert (answer.status_code, answer.content) == (307, b"")
    fetched = httpx.get(answer.headers["location"])
    assert hashlib.sha256(fetched.content).hexdigest() == subject.sha256
    assert "best-1.safetensors" in fetched.headers["content-disposition"]
    assert json.loads(api.store.get(model_key(made.json()["id"])))["weights"]["sha256"] == subject.sha256
