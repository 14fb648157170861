"""A run is evaluated while it trains, and ended by its stop rule: with real services, one of which is killed."""

from __future__ import annotations

import pytest

import phema
from phema.shared.catalog import Catalog
from tests.e2e.conftest import Service
from tests.e2e.test_kills import CONFIG, PATIENCE_S, kill, until

FOLLOWED = {"every_snapshots": 1, "num_samples": 16, "num_steps": 2, "metrics": ["frechet"], "stop_after_images": 2_560}


@pytest.mark.timeout(900)
def test_a_run_without_gains_ends_after_a_checkpoint(service: Service) -> None:
    """It learns nothing, so no figure improves. Without the rule it would train for an hour."""
    config = {**CONFIG, "total_images": 1_280_000, "learning_rate": 1e-30, "evaluation": FOLLOWED}
    with phema.Client(service.url) as client:
        client.runs.create("idle", config=config)
        until(lambda: client.runs.progress_curve("idle").points, "the first figures")
        kill(service, "phema.services.phema_worker")
        run = client.runs.watch("idle", timeout=PATIENCE_S)
        assert run.state == "cancelled"
        assert str(run.error).startswith("ended by evaluation.stop_after_images 2560: frechet has not improved since")
        until(lambda: client.runs.progress_curve("idle").state == "succeeded", "the end of the continuous evaluation")
        curve = client.runs.progress_curve("idle")
    assert curve.stopped == run.error
    assert curve.failures == []
    times = [point.num_images for point in curve.points]
    assert times == sorted(set(times))
    assert all(time % 1_280 == 0 for time in times)
    assert times[-1] - times[0] >= 2_560
    catalog = Catalog(f"sqlite:///{service.state / 'catalog.db'}")
    with catalog.transaction(read_only=True) as tx:
        checkpoint = tx.checkpoints.latest(run.id)
    catalog.close()
    assert checkpoint is not None
    assert checkpoint.num_images == run.num_images
