"""Runs for datasets of the user's own: what follows from the data, what it costs, and every mistake at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phema.shared.catalog import JobKind
from phema.shared.recipes.run_config import RunConfig
from tests.api.conftest import Api
from tests.api.http import problem
from tests.datasets.photos import encoded, labelled, photo_files, write_folder, write_zip


@pytest.fixture
def photos(tmp_path: Path) -> str:
    """Forty pictures of two classes with names."""
    tiles = [data for name, data in photo_files(40, 16)[0].items() if name.endswith(".png")]
    return str(write_folder(tmp_path / "pets", {f"{('cat', 'dog')[i % 2]}/{i}.png": t for i, t in enumerate(tiles)}))


def test_a_plan_follows_from_the_data_and_is_the_run_that_is_created(api: Api, photos: str) -> None:
    plan = api.post("/v1/run-plans", {"dataset": photos}).json()
    assert plan["dataset"] == {
        "path": photos,
        "num_pictures": 40,
        "resolution": 16,
        "channels": 3,
        "encoding": "pictures",
        "num_classes": 2,
        "class_names": ["cat", "dog"],
        "vector_size": 0,
    }
    config = RunConfig.model_validate(plan["config"])
    assert config.dataset.model_dump() == {"name": "pets", "path": photos, "held_out": 4, "vae": None}
    network = config.network
    assert (network.img_resolution, network.img_channels, network.label_dim) == (16, 3, 2)
    assert "36 training pictures, 16x16 RGB with 2 classes: a network of" in plan["explanation"]
    assert f"{plan['num_parameters']:,} parameters" in plan["explanation"]
    times = config.total_images // config.snapshot_every
    assert (plan["num_snapshots"], plan["snapshot_bytes"]) == (2 * times, 2 * times * 2 * plan["num_parameters"])
    assert (plan["hours"], plan["hours_basis"]) == (None, None)
    assert api.all("/v1/runs") == []
    created = api.post("/v1/runs", {"name": "mine", "dataset": photos}).json()
    assert (created["preset"], created["config"]) == ("proposed", plan["config"])
    with api.catalog.transaction() as tx:
        assert tx.leases.claim([JobKind.TRAIN], owner="test", lease_seconds=60) is not None


def test_a_preset_is_fitted_and_fields_are_replaced(api: Api, photos: str) -> None:
    asked = {"dataset": photos, "preset": "edm2-img64-xs", "held_out": 0.25, "config": {"batch_size": 64}}
    plan = api.post("/v1/run-plans", asked).json()
    config = RunConfig.model_validate(plan["config"])
    assert (config.network.img_resolution, config.network.label_dim, config.network.model_channels) == (16, 2, 128)
    assert (config.dataset.held_out, config.batch_size, config.learning_rate) == (10, 64, 0.012)
    assert plan["explanation"] == (
        "network and training are those of preset edm2-img64-xs, fitted to 16x16 RGB with 2 classes"
    )
    assert api.post("/v1/run-plans", {"dataset": "digits"}).json()["config"]["network"]["label_dim"] == 10


def test_label_vectors_are_known(api: Api, tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(4)]
    files = {name: encoded(np.full((8, 8), i, np.uint8)) for i, name in enumerate(names)}
    path = write_zip(tmp_path / "x.zip", {**files, "dataset.json": labelled(names, [[0.5, i] for i in range(4)])})
    plan = api.post("/v1/run-plans", {"dataset": str(path)}).json()
    assert (plan["config"]["dataset"]["labels"], plan["config"]["network"]["label_dim"]) == ("vectors", 2)


def test_hours_come_from_the_throughput_of_an_earlier_run(api: Api, photos: str) -> None:
    """Twice the workers take half the time, and a run of another kind of device does not count."""
    first = api.post("/v1/runs", {"name": "before", "dataset": photos}).json()
    with api.catalog.transaction() as tx:
        tx.runs.set_progress(first["id"], 640)
        for i, rate in enumerate((10.0, 200.0, 190.0)):  # the first row holds the start
            tx.history.put(first["id"], 64 * (i + 1), {"images_per_second": rate, "loss": 1.0})
    plan = api.post("/v1/run-plans", {"dataset": photos}).json()
    assert plan["hours"] == pytest.approx(plan["config"]["total_images"] / 190 / 3600)
    assert plan["hours_basis"].startswith("run before trained on 190 images/s at ")
    two = api.post("/v1/run-plans", {"dataset": photos, "config": {"num_workers": 2}}).json()
    assert two["hours"] == pytest.approx(plan["hours"] / 2)
    wide = api.post("/v1/run-plans", {"dataset": photos, "config": {"network": {"model_channels": 64}}}).json()
    assert wide["hours"] / plan["hours"] == pytest.approx(wide["gflops"] / plan["gflops"])
    assert api.post("/v1/run-plans", {"dataset": photos, "config": {"device": "cuda"}}).json()["hours"] is None


def refusals(api: Api, path: str, body: dict[str, Any]) -> dict[str, str]:
    errors = problem(api.post(path, body), 422, "invalid")["errors"]
    return {error["field"]: error["detail"] for error in errors}


@pytest.mark.parametrize("path", ["/v1/run-plans", "/v1/runs"])
def test_every_mistake_is_listed_at_once_and_nothing_is_queued(api: Api, photos: str, path: str) -> None:
    api.post("/v1/runs", {"name": "taken", "preset": "digits-tiny"})
    config = {
        "learnin_rate": 1,
        "network": {"label_dim": 7, "dropout": 2},
        "dataset": {"held_out": 40, "vae": "x", "labels": "vectors"},
        "evaluation": {"metrics": ["held_out_loss"], "num_samples": 0},
    }
    found = refusals(api, path, {"name": "taken", "dataset": photos, "config": config})
    assert set(found) == {
        "name",
        "config.learnin_rate",
        "config.network.dropout",
        "config.evaluation.num_samples",
        "config.network.label_dim",
        "config.dataset.held_out",
        "config.dataset.vae",
        "config.dataset.labels",
    }
    assert "did you mean 'learning_rate'" in found["config.learnin_rate"]
    assert "config.network.label_dim is 7, but pets has 2 classes; use 2" in found["config.network.label_dim"]
    assert "config.dataset.held_out is 40, but pets has 40 pictures" in found["config.dataset.held_out"]
    assert len(api.all("/v1/runs")) == 1


def test_a_dataset_that_cannot_be_read_is_named(api: Api, photos: str, tmp_path: Path) -> None:
    for name in ("cat/0.png", "dog/1.png"):
        (Path(photos) / name).write_bytes(b"no picture")
    (Path(photos) / "cat" / "2.png").write_bytes(encoded(np.zeros((20, 20, 3), np.uint8)))
    refused = refusals(api, "/v1/run-plans", {"dataset": photos})["dataset"]
    assert refused.startswith(f"dataset: cat/0.png in dataset {photos} cannot be read")
    (Path(photos) / "cat" / "0.png").write_bytes(encoded(np.zeros((16, 16, 3), np.uint8)))
    refused = refusals(api, "/v1/run-plans", {"dataset": photos})["dataset"]
    assert "dog/1.png in dataset" in refused
    assert "cat/2.png in dataset" in refused, "both at once"
    for given, sentence in (
        (str(tmp_path / "none.zip"), "none.zip does not exist on this machine"),
        ("photos.zip", "dataset.path is photos.zip; it must be an absolute path"),
    ):
        assert sentence in refusals(api, "/v1/runs", {"name": "x", "dataset": given})["dataset"]
    document = problem(api.post("/v1/runs", {"name": "x"}), 422, "invalid")
    assert document["detail"] == "preset is missing; name a preset, or a dataset for which a network is proposed"
