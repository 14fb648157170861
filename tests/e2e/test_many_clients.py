"""50 clients poll and post for a minute while a run trains, and none meets an error."""

from __future__ import annotations

import httpx
import pytest

from benchmarks.many_clients import poll_and_post
from tests.e2e.conftest import Service
from tests.trainer.support import wait_until


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_fifty_clients_beside_a_training_meet_no_error(
    service: Service, record_property: pytest.RecordProperty
) -> None:
    config = {"total_images": 10_000_000, "batch_size": 64, "snapshot_every": 640, "checkpoint_every": 64_000}
    with httpx.Client(base_url=service.url, trust_env=False) as client:
        asked = client.post("/v1/runs", json={"name": "beside", "preset": "digits-tiny", "config": config})
        assert asked.status_code == 201, asked.text
        wait_until(lambda: client.get("/v1/runs/beside/snapshots").json()["items"], "the first snapshot")
        before = client.get("/v1/runs/beside").json()["num_images"]
        answers = poll_and_post(service.url, "beside", clients=50, seconds=60)
        after = client.get("/v1/runs/beside").json()
        client.post("/v1/runs/beside/cancel", headers={"content-type": "application/json"})
    record_property("p99_seconds", answers.p99)
    print(f"{len(answers.seconds)} requests, median {answers.median:.3f} s, p99 {answers.p99:.3f} s")
    assert answers.errors == []
    assert len(answers.seconds) >= 50 * 8, "every client has asked everything"
    assert after["state"] == "running"
    assert after["num_images"] > before, "it trained meanwhile"
