"""`POST /v1/runs/{run}/rename`."""

from __future__ import annotations

import pytest

from phema.shared.catalog import EventKind
from phema.shared.snapshots.errors import ObjectExists
from phema.shared.snapshots.files.run_document import RunDocument, put_run, read_run
from phema.shared.snapshots.files.run_renames import RunRename, latest_name, renames
from phema.shared.snapshots.stores.object_keys import rename_key
from tests.api import seed
from tests.api.http import Api, problem


def test_a_renamed_run_has_its_new_name_everywhere(api: Api) -> None:
    run = seed.run(api.catalog)
    answer = api.post("/v1/runs/digits/rename", {"name": "first"})
    assert answer.status_code == 200
    assert (answer.json()["id"], answer.json()["name"]) == (run.id, "first")
    assert api.get("/v1/runs/first").json()["id"] == run.id
    problem(api.get("/v1/runs/digits"), 404, "not-found")
    with api.catalog.transaction() as tx:
        event = tx.run_events.latest_of(run.id, EventKind.RENAMED)
        assert event is not None
        assert event.details == {"from": "digits", "to": "first"}
        assert not tx.deletions.keys(), "the record is no longer about to be deleted"
    assert latest_name(api.store, run.id) == "first"
    assert api.post("/v1/runs", {"name": "digits", "preset": "digits-tiny"}).status_code == 201, "the name is free"


def test_the_newest_of_several_names_counts(api: Api) -> None:
    run = seed.run(api.catalog)
    for old, new in (("digits", "b"), ("b", "c"), ("c", "digits"), (run.id, "d")):
        assert api.post(f"/v1/runs/{old}/rename", {"name": new}).json()["name"] == new
    assert latest_name(api.store, run.id) == "d"
    assert len(renames(api.store, run.id).infos) == 4


def test_the_same_name_changes_nothing(api: Api) -> None:
    run = seed.run(api.catalog)
    assert api.post("/v1/runs/digits/rename", {"name": "digits"}).json()["name"] == "digits"
    assert not renames(api.store, run.id).infos


def test_a_taken_or_wrong_name_is_refused(api: Api) -> None:
    run, _ = seed.run(api.catalog), seed.run(api.catalog, "other")
    detail = problem(api.post("/v1/runs/digits/rename", {"name": "other"}), 409, "name-taken")["detail"]
    assert "'other' is taken" in detail
    for wrong in ("run-0123", "external", "two words", ""):
        assert "name" in problem(api.post("/v1/runs/digits/rename", {"name": wrong}), 422, "invalid")["detail"]
    assert (
        "did you mean 'digits'" in problem(api.post("/v1/runs/digit/rename", {"name": "x"}), 404, "not-found")["detail"]
    )
    assert not renames(api.store, run.id).infos


def test_a_record_whose_request_died_is_neither_a_name_nor_an_orphan(api: Api) -> None:
    """The process dies after it has stored the record and before it changes the row."""
    run = seed.run(api.catalog)
    key = rename_key(run.id, 1, "dead")
    with api.catalog.transaction() as tx:
        tx.deletions.hold(key)
    api.store.put(key, RunRename(run_id=run.id, name="never", renamed_at=1.0).encode())
    assert api.get("/v1/runs/digits").json()["name"] == "digits"
    with api.catalog.transaction() as tx:
        listed = tx.deletions.keys()
    assert latest_name(api.store, run.id, leave_out=listed) is None
    assert api.post("/v1/runs/digits/rename", {"name": "second"}).status_code == 200
    assert latest_name(api.store, run.id) == "second", "later records have larger numbers"


def test_run_json_keeps_the_first_name(api: Api) -> None:
    document = RunDocument(id="run-1", name="a", config={"lr": 1})
    put_run(api.store, "run-1", document.encode())
    put_run(api.store, "run-1", document.model_copy(update={"name": "b"}).encode())
    assert read_run(api.store, "run-1").name == "a"
    with pytest.raises(ObjectExists):
        put_run(api.store, "run-1", document.model_copy(update={"config": {"lr": 2}}).encode())


def test_a_renamed_external_run_can_be_opened_again(api: Api) -> None:
    asked = {"name": "mine", "config": {"model": "x"}}
    run = api.post("/v1/runs/external", asked).json()
    api.post("/v1/runs/mine/rename", {"name": "yours"})
    again = api.post("/v1/runs/external", asked | {"name": "yours"})
    assert again.json()["id"] == run["id"]
    assert read_run(api.store, run["id"]).name == "yours"
