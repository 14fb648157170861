"""Recording again changes only what changed."""

from __future__ import annotations

from typing import Any

from phema.shared.catalog.pagination import encode_cursor
from tests.api.kept_values import kept


def _exchanges(run: str, at: str, seconds: float, sha256: str = "a" * 64) -> dict[str, Any]:
    return {
        "create_run": {
            "path": "/v1/runs",
            "response": {"id": run, "created_at": at, "config_hash": "c" * 64, "sha256": sha256, "loss": 0.5},
        },
        "get_run": {
            "path": f"/v1/runs/{run}",
            "response": {"id": run, "seconds": seconds, "owner": f"trainer@host:{int(seconds)}", "key": f"{run}/x"},
        },
    }


BEFORE = _exchanges("run-000000000001", "2026-01-01T00:00:00.000000Z", 1.0)


def test_chance_changes_nothing() -> None:
    again = _exchanges("run-fedcba987654", "2027-02-02T10:11:12.345678Z", 2.5, "b" * 64)
    assert kept(again, BEFORE) == BEFORE


def test_what_changed_is_recorded() -> None:
    again = _exchanges("run-fedcba987654", "2027-02-02T10:11:12.345678Z", 2.5)
    again["create_run"]["response"] |= {"config_hash": "d" * 64, "loss": 0.6, "state": "queued"}
    found = kept(again, BEFORE)
    changed = {"config_hash": "d" * 64, "loss": 0.6, "state": "queued"}
    assert found["create_run"]["response"] == BEFORE["create_run"]["response"] | changed
    assert found["get_run"] == BEFORE["get_run"]


def test_an_exchange_between_others_shifts_nothing() -> None:
    again = _exchanges("run-fedcba987654", "2027-02-02T10:11:12.345678Z", 2.5)
    new = {"path": "/v1/runs/run-fedcba987654/new", "response": {"id": "job-0123456789abcdef"}}
    found = kept({"create_run": again["create_run"], "new": new, "get_run": again["get_run"]}, BEFORE)
    assert found.pop("new") == {"path": "/v1/runs/run-000000000001/new", "response": {"id": "job-0123456789abcdef"}}
    assert found == BEFORE


def test_ids_in_cursors_are_kept() -> None:
    def page(snapshot: str) -> dict[str, Any]:
        return {"list": {"items": [{"id": snapshot}], "next_cursor": encode_cursor(1600, 0.1, snapshot)}}

    before = page("snap-0000000000000001")
    assert kept(page("snap-fedcba9876543210"), before) == before


def test_the_order_of_fields_is_kept_and_that_of_exchanges_is_not() -> None:
    before = {"a": {"x": 1, "y": 2}, "b": {}}
    found = kept({"b": {}, "a": {"z": 3, "y": 2, "x": 1}}, before)
    assert list(found) == ["b", "a"]
    assert list(found["a"]) == ["x", "y", "z"]


def test_two_ids_never_become_one() -> None:
    before = {"a": {"id": "job-0000000000000001"}, "b": {"id": "job-0000000000000001"}}
    again = {"a": {"id": "job-0000000000000002"}, "b": {"id": "job-0000000000000003"}}
    assert kept(again, before) == {"a": {"id": "job-0000000000000001"}, "b": {"id": "job-0000000000000003"}}
