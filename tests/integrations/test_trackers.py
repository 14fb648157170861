"""MLflow and Weights & Biases themselves, offline: a real service's run, and one in a folder, each logged as one."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
import wandb
from torch import nn

import phema
from phema.integrations import mlflow as to_mlflow
from phema.integrations import wandb as to_wandb
from phema.shared.metrics.figures import jackknifed
from phema.shared.settings import Settings
from tests.phema.hands import hands
from tests.phema.service import api

WIDTHS = (0.05, 0.10, 0.20)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[phema.Client]:
    """A real API with run "mine": a history, snapshots, and three evaluated averages."""
    with (
        api(Settings(state_dir=tmp_path_factory.mktemp("state"))) as service,
        phema.Client(service.url) as opened,
        hands(
            service, lambda row, run: jackknifed(abs((row.reconstruction.sigma_rel or 1) - 0.1) + 0.4, [0.3, 0.4, 0.5])
        ),
    ):
        run = opened.runs.create("mine")
        assert run.job is not None
        opened.wait(run.job.id)
        for made in opened.reconstruct("mine", WIDTHS):
            opened.evaluate(made, num_samples=100)
        yield opened


@pytest.fixture
def folder() -> str:
    """A run without a service."""
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    ema = phema.PowerFunctionEMA(model)
    with phema.SnapshotWriter("runs/own", config={"optimizer": {"lr": 0.1}}) as writer:
        for step in range(1, 33):
            with torch.no_grad():
                model.weight += torch.randn(1, 2)
            ema.update(step)
            if step % 4 == 0:
                writer.save(ema)
    return "runs/own"


@pytest.fixture
def tracking(tmp_path: Path) -> Iterator[Any]:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.create_experiment("phema", artifact_location=str(tmp_path / "artifacts"))
    mlflow.set_experiment("phema")
    yield mlflow.MlflowClient()
    mlflow.set_tracking_uri(before)


def artifact(identity: str, name: str) -> str:
    return Path(mlflow.artifacts.download_artifacts(run_id=identity, artifact_path=f"phema/{name}")).read_text()


def test_mlflow_shows_a_run_of_a_service_as_one(client: phema.Client, tracking: Any) -> None:
    identity = to_mlflow.log_run("mine", client=client)
    found = tracking.get_run(identity)
    run = client.runs.get("mine")
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "mine"
    assert found.data.params["batch_size"] == str(run.config["batch_size"])
    assert found.data.params["network.img_resolution"] == str(run.config["network"]["img_resolution"])
    assert found.data.metrics["frechet_digits/sigma_rel_0.1"] == pytest.approx(0.4)
    assert found.data.metrics["frechet_digits/sigma_rel_0.2"] == pytest.approx(0.5)
    history = tracking.get_metric_history(identity, "loss")
    rows = client.runs.metrics("mine")
    assert [(m.step, m.value) for m in history] == [(row.num_images, row.values["loss"]) for row in rows]
    figures = list(csv.DictReader(io.StringIO(artifact(identity, "figures.csv"))))
    shown = {float(f["sigma_rel"]): float(f["standard_error"]) for f in figures if f["figure"] == "frechet_digits"}
    assert shown.keys() == set(WIDTHS)
    lineage = json.loads(artifact(identity, "lineage.json"))
    assert lineage["run"]["config_hash"] == run.config_hash
    assert len(lineage["snapshots"]) == len(client.runs.snapshots("mine"))
    assert {e["reconstruction"] for e in lineage["evaluations"]} == {r["id"] for r in lineage["reconstructions"]}
    picture = mlflow.artifacts.download_artifacts(run_id=identity, artifact_path="phema/ema-length.png")
    assert Path(picture).read_bytes().startswith(b"\x89PNG")
    # Once more: the same run, and no value twice.
    assert to_mlflow.log_run("mine", client=client) == identity
    assert len(tracking.get_metric_history(identity, "loss")) == len(rows)
    assert len(tracking.search_runs([found.info.experiment_id])) == 1


def test_mlflow_shows_a_run_of_a_folder_in_the_active_run(folder: str, tracking: Any) -> None:
    with mlflow.start_run() as active:
        identity = to_mlflow.log_run(folder, scores={0.07: {"accuracy": 0.9}, 0.05: {"accuracy": 0.8}})
        assert identity == active.info.run_id
    found = tracking.get_run(identity)
    assert found.data.params == {"optimizer.lr": "0.1"}
    assert found.data.metrics["accuracy/sigma_rel_0.07"] == 0.9
    lineage = json.loads(artifact(identity, "lineage.json"))
    assert len(lineage["snapshots"]) == 16
    [first, second] = lineage["reconstructions"]
    assert (first["profile"]["sigma_rel"], second["profile"]["sigma_rel"]) == (0.05, 0.07)
    assert sum(second["coefficients"]) == pytest.approx(1)
    assert {s["id"] for s in second["from"]} <= {s["id"] for s in lineage["snapshots"]}


def test_wandb_shows_a_run_of_a_service_as_one_offline(client: phema.Client, tmp_path: Path) -> None:
    run = client.runs.get("mine")
    assert to_wandb.log_run("mine", project="phema", client=client) == run.id
    assert wandb.run is None
    [place] = (tmp_path / "wandb").glob(f"offline-run-*-{run.id}")
    [table] = place.rglob("figures*.table.json")
    content = json.loads(table.read_text())
    rows = [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]
    assert {row["sigma_rel"]: row["value"] for row in rows if row["figure"] == "frechet_digits"} == {
        0.05: pytest.approx(0.45),
        0.1: pytest.approx(0.4),
        0.2: pytest.approx(0.5),
    }
    assert [path.suffix for path in place.rglob("ema-length*")] == [".png"]
    # The file that `wandb sync` sends holds the history.
    log = (place / f"run-{run.id}.wandb").read_bytes()
    for text in (b"images_per_second", b"frechet_digits/sigma_rel_0.05", b"mine-lineage", b"batch_size"):
        assert text in log
    last = client.runs.metrics("mine")[-1].num_images
    assert str(last).encode() in log


def test_wandb_uses_the_run_that_is_open(folder: str) -> None:
    with wandb.init(project="phema", mode="offline") as opened:
        assert to_wandb.log_run(folder, scores={0.07: {"accuracy": 0.9}}) == opened.id
        assert wandb.run is opened
        assert opened.summary["accuracy/sigma_rel_0.07"] == 0.9
        assert opened.config["optimizer.lr"] == 0.1
