"""`/v1/runs/{run}/snapshots`; the files are in test_downloads.py."""

from __future__ import annotations

import hashlib

import pytest

from tests.api import seed
from tests.api.http import Api, problem


@pytest.mark.parametrize("path", ["/v1/runs/digits/snapshots", "/v1/snapshots/snap-1/download"])
def test_anonymous_gets_401(guarded: Api, path: str) -> None:
    seed.run(guarded.catalog)
    problem(guarded.anonymous("GET", path), 401, "unauthorized")
    problem_head = guarded.anonymous("HEAD", path)
    assert problem_head.status_code == 401


def test_snapshots_come_in_order_of_time_then_width(api: Api) -> None:
    run = seed.trained(api.catalog, api.store)
    items = api.all("/v1/runs/digits/snapshots", limit=3)
    expected = [(time, sigma_rel) for time in seed.TIMES for sigma_rel in seed.STORED]
    assert [(item["num_images"], item["sigma_rel"]) for item in items] == expected
    first = items[0]
    assert (first["run_id"], first["dtype"], first["size"]) == (run.id, "float32", 64)
    assert first["profile"]["kind"] == "power"
    assert first["profile"]["gamma"] == pytest.approx(16.97, abs=0.01)
    assert len(first["sha256"]) == 64


def test_a_traditional_average_is_listed_downloaded_and_read_by_reconstructions(api: Api) -> None:
    run = seed.trained(api.catalog, api.store)
    last, data = seed.TIMES[-1], b"averaged weights"
    api.store.put("runs/x/snapshots/ema.safetensors", data)
    with api.catalog.transaction() as tx:
        row, _ = tx.snapshots.add(
            run_id=run.id,
            num_images=last,
            profile={"kind": "exponential", "half_life_images": 5000, "rampup_ratio": 0.05},
            dtype="float32",
            key="runs/x/snapshots/ema.safetensors",
            size=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
        )
    item = api.all("/v1/runs/digits/snapshots", limit=5)[-1]
    assert (item["id"], item["num_images"], item["sigma_rel"]) == (row.id, last, None)
    assert item["profile"] == {"kind": "exponential", "half_life_images": 5000, "rampup_ratio": 0.05}
    answer = api.get(f"/v1/snapshots/{row.id}/download")
    assert answer.content == data
    assert f"digits-{last}-ema.safetensors" in answer.headers["content-disposition"]
    question = {"profiles": [item["profile"]], "plan_only": True}
    plan = api.post("/v1/runs/digits/reconstructions", question).json()
    assert [snapshot["id"] for snapshot in plan["snapshots"]] == [row.id]


def test_a_run_without_snapshots_has_an_empty_list(api: Api) -> None:
    seed.run(api.catalog)
    assert api.get("/v1/runs/digits/snapshots").json() == {"items": [], "next_cursor": None}


def test_an_unknown_snapshot_is_404(api: Api) -> None:
    assert "snap-nobody" in problem(api.get("/v1/snapshots/snap-nobody/download"), 404, "not-found")["detail"]
