"""The figures of a status besides the loss: loss by noise level, gradients, magnitudes, waiting for data."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from phema.services.trainer.local_training import claim_locally, train_locally
from phema.services.trainer.training import loop
from phema.services.trainer.training.batches import Batch, Batches
from phema.services.trainer.training.measurements.loss_by_noise_level import LossByNoiseLevel
from phema.services.trainer.training.measurements.magnitudes import magnitudes_due
from phema.services.trainer.training.picture_noise import picture_noise
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.catalog import Catalog
from phema.shared.edm2.training.magnitudes import weight_magnitudes
from phema.shared.recipes.noise_levels import noise_level_edges
from phema.shared.recipes.run_config import RunConfig
from phema.shared.snapshots import ObjectStore
from phema.shared.snapshots.files.network_loading import load_denoiser
from phema.shared.telemetry import Meters
from tests.trainer.support import tiny_config

CPU = torch.device("cpu")


def history_of(config: RunConfig, catalog: Catalog, store: ObjectStore) -> dict[int, dict[str, float]]:
    run = train_locally(config, catalog, store)
    with catalog.transaction(read_only=True) as tx:
        return {point.num_images: point.values for point in tx.history.list(run.id).items}


def test_bins_of_the_noise_level_are_equally_likely() -> None:
    edges = noise_level_edges(4, p_mean=-0.4, p_std=1.0)
    assert edges == pytest.approx([0.34147, 0.67032, 1.31586], rel=1e-4)
    sigma, _ = picture_noise(0, np.arange(8_000), (1,), p_mean=-0.8, p_std=1.6)
    by_noise = LossByNoiseLevel(8, p_mean=-0.8, p_std=1.6, device=CPU)
    by_noise.add(sigma, torch.ones(8_000))
    assert by_noise.sums[1].tolist() == pytest.approx([1000.0] * 8, rel=0.12)


def test_the_loss_by_noise_level_is_the_mean_of_each_bin() -> None:
    by_noise = LossByNoiseLevel(3, p_mean=0.0, p_std=1.0, device=CPU)
    low, high = noise_level_edges(3, p_mean=0.0, p_std=1.0)
    assert by_noise.means() == {}
    by_noise.add(torch.tensor([1e-6, low - 1e-3, high + 1e-3]), torch.tensor([1.0, 2.0, 5.0]))
    by_noise.add(torch.tensor([1e6]), torch.tensor([7.0]))
    assert by_noise.means() == {"loss_by_noise/0": 1.5, "loss_by_noise/2": 6.0}


def test_one_bin_is_the_loss_itself(local_catalog: Catalog, local_store: ObjectStore) -> None:
    config = tiny_config(total_images=96, noise_level_bins=1, snapshot_every=96, checkpoint_every=96, status_every=48)
    history = history_of(config, local_catalog, local_store)
    assert list(history) == [48, 96]
    for values in history.values():
        assert values["loss_by_noise/0"] == pytest.approx(values["denoising_loss"], rel=1e-6)
        assert 0 <= values["data_wait_share"] < 1
        assert math.isfinite(values["grad_norm"])
        assert values["grad_norm"] > 0


def test_the_progress_metrics_exist_before_the_first_step(
    local_catalog: Catalog, local_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metrics of the alert PhemaRunStalled exist before the workers first wait for each other."""
    seen: list[tuple[float | None, float | None]] = []

    def meet(*_: object) -> None:
        value, labels = meters.registry.get_sample_value, {"run_id": attempt.run_id}
        seen.append((value("phema_training_images", labels), value("phema_training_total_images", labels)))

    monkeypatch.setattr(loop, "check_same_dataset", meet)
    attempt = claim_locally(tiny_config(total_images=32, snapshot_every=32, checkpoint_every=16), local_catalog)
    for _ in ("new", "resumed"):
        meters = Meters("training")
        loop.train(attempt, catalog=local_catalog, store=local_store, group=WorkerGroup(), meters=meters)
    assert seen == [(0, 32), (32, 32)]


def test_magnitudes_are_measured_at_the_first_status_after_each_multiple() -> None:
    config = tiny_config(magnitudes_every=200, total_images=880, status_every=80, snapshot_every=80)
    due = [time for time in range(80, 881, 80) if magnitudes_due(config, time)]
    assert due == [240, 400, 640, 800, 880]
    often = tiny_config(magnitudes_every=1)
    assert all(magnitudes_due(often, time) for time in (80, 160, 240, 320))


def test_magnitudes_are_those_of_the_average_and_of_the_weights_in_training(
    local_catalog: Catalog, local_store: ObjectStore
) -> None:
    config = tiny_config(magnitudes_every=320)
    history = history_of(config, local_catalog, local_store)
    assert [any("weight/" in name for name in values) for values in history.values()] == [False, False, False, True]
    with local_catalog.transaction(read_only=True) as tx:
        row = next(s for s in tx.snapshots.list(tx.runs.get("local").id) if (s.num_images, s.sigma_rel) == (320, 0.05))
    expected = weight_magnitudes(load_denoiser(local_store.get(row.key)))
    found = {name.removeprefix("weight/"): v for name, v in history[320].items() if name.startswith("weight/")}
    assert found == pytest.approx(expected, rel=1e-6)
    training = {name: value for name, value in history[320].items() if name.startswith("training_")}
    averaged = {name for name in history[320] if name.count("/") == 3} - training.keys()
    assert {name.removeprefix("training_") for name in training} == averaged
    # Forced to unit magnitude before the last step, which moved them a little; averaging only shrinks.
    for place, value in expected.items():
        if place.endswith("mean"):
            assert training[f"training_weight/{place}"] == pytest.approx(1, abs=0.02)
            assert value < training[f"training_weight/{place}"]


def test_a_batch_that_is_not_finite_is_counted_and_leaves_weights_finite(
    local_catalog: Catalog, local_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One infinite picture in the third batch: its loss and gradient are not finite, the weights stay finite."""

    class Poisoned(Batches):
        def at(self, num_images: int) -> Batch:
            batch = super().at(num_images)
            if num_images == 32:
                batch.images[0] = math.inf
            return batch

    monkeypatch.setattr(loop, "Batches", Poisoned)
    config = tiny_config(total_images=128, snapshot_every=64, checkpoint_every=128, status_every=64)
    history = history_of(config, local_catalog, local_store)
    assert not math.isfinite(history[64]["loss"])
    assert history[64]["grad_nonfinite"] > 0
    assert history[128]["grad_nonfinite"] == 0
    assert math.isfinite(history[128]["loss"])
    assert all(math.isfinite(values["grad_norm"]) for values in history.values())
    with local_catalog.transaction(read_only=True) as tx:
        rows = tx.snapshots.list(tx.runs.get("local").id)
    assert len(rows) == 4
    for row in rows:
        assert all(torch.isfinite(value).all() for value in load_denoiser(local_store.get(row.key)).parameters())
