"""Blocks of the documentation that are marked to run, page by page, on one service. Trainings are shorter here."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import phema
from phema.client.average_models import Reconstruction
from tests.docs.blocks import Session
from tests.e2e.conftest import Service
from tests.snapshots import foreign_files as foreign

pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[2]
METRICS = ROOT / "docs" / "metrics.md"
IMAGES = {"digits": 6400, "digits-small": 6400, "digits-a": 6400}
"""Runs that pages name, and how long each trains here."""
SHORTER = {
    "--set total_images=12800": "--set total_images=6400",
    "--set total_images=25600": "--set total_images=640 --set snapshot_every=640",
    '"total_images": 12800': '"total_images": 6400',
    "my-digits-12800-": "my-digits-6400-",
    "--num-samples 1000": "--num-samples 64 --num-steps 4",
    "phema evaluate digits-a ": "phema evaluate digits-a --num-samples 64 --num-steps 4 ",
    "num_samples=512, num_steps=16": "num_samples=64, num_steps=4",
}
"""Trainings and evaluations of pages, and shorter ones for this test."""
PAGES_OF_COMMANDS = (
    *("analyses", "api", "cli", "evaluation-metrics", "evaluations", "import", "models", "previews", "reconstruction"),
    *("samples", "storage"),
)
MARKED = re.compile(r"<!-- run by tests/e2e/test_pages.py -->\n```(\w+)\n(.*?)```", re.S)


@dataclass(frozen=True)
class Trained:
    """The service with the runs of IMAGES, and a reconstruction of digits-a."""

    service: Service
    reconstruction: Reconstruction


@pytest.fixture(scope="module")
def trained(service: Service) -> Trained:
    with phema.Client(service.url) as client:
        for name, images in IMAGES.items():
            client.runs.create(name, preset="digits-tiny", config={"total_images": images, "snapshot_every": 640})
        for name in IMAGES:
            assert client.runs.watch(name, timeout=600).state == "succeeded"
        [weights] = client.reconstruct("digits-a", [0.05])
    return Trained(service, weights)


@dataclass
class Training:
    """What the training loops of pages find defined: a small network and its batches."""

    batch_size: int = 8
    steps: int = 4000
    model: torch.nn.Module = field(default_factory=lambda: torch.nn.Linear(4, 2))

    def names(self) -> dict[str, Any]:
        batches = range(self.steps)
        other = torch.nn.Linear(4, 2)
        found = {
            "model": self.model,
            "batch_size": self.batch_size,
            "batches": batches,
            "other": other,
            "torch": torch,
            "asyncio": asyncio,
        }
        return {**found, "validate": lambda model: float(model.weight.sum()), "phema": phema}


def new_session(
    page: str,
    folder: Path,
    service: Service,
    names: dict[str, Any] | None = None,
    replaced: Mapping[str, str] | None = None,
) -> Session:
    environment = {"PHEMA_URL": service.url, "PHEMA_STATE_DIR": str(service.state)}
    return Session(page, folder, environment, names=names or {}, replaced={**SHORTER, **(replaced or {})})


def test_the_readme(service: Service, tmp_path: Path) -> None:
    """Its own run gets another name than that of the quick start."""
    replaced = {"my-digits": "readme-digits"}
    outputs = new_session("README.md", tmp_path, service, names=Training().names(), replaced=replaced).run()
    assert len(list((tmp_path / "weights").glob("mine-32000-*.safetensors"))) == 6
    assert "best" in outputs[-1]


def test_the_quick_start(service: Service, tmp_path: Path) -> None:
    outputs = new_session("docs/start.md", tmp_path, service).run()
    assert [output for output in outputs if '"title"' in output] == [], "a problem was answered"
    for picture in ("digits.png", "samples.png"):
        with Image.open(tmp_path / picture) as image:
            assert image.convert("L").getextrema()[1] > 128
    follow_its_requests(service, tmp_path)


def test_the_loop_without_a_service(service: Service, tmp_path: Path) -> None:
    outputs = new_session("docs/tutorials/own-loop.md", tmp_path, service).run()
    [compared] = [output for output in outputs if "best:" in output]
    errors = {name: float(value) for name, value in re.findall(r"^(\S.*?) +(\d\.\d+)$", compared, re.MULTILINE)}
    printed = (ROOT / "docs/tutorials/own-loop.md").read_text()
    assert "best: mine-16000-0.15" in compared
    assert "best: mine-16000-0.15" in printed
    assert 8 < errors["last weights"] / errors["mine-16000-0.15"] < 15  # "eleven times smaller"


def test_published_networks(service: Service, tmp_path: Path) -> None:
    folder = tmp_path / "edm2-xs"
    folder.mkdir()
    foreign.write_run(folder, [65, 131, 196], [0.05, 0.1], clip_act=None)
    outputs = new_session("docs/tutorials/published-networks.md", tmp_path, service).run()
    assert "network-snapshot-0000065-0.050.pkl    65,536   power     0.05" in outputs[0]
    assert outputs[-1] == "torch.Size([4, 2, 8, 8])\n"


# Pages leave their clients open, as scripts do whose process ends. Here the process goes on.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("page", ["python", "own-training"])
def test_a_page_of_python(page: str, trained: Trained, tmp_path: Path) -> None:
    if page == "python":
        _write_run(tmp_path / "runs" / "mine")
    replaced = {'"mine"': f'"own-{page}"', '"digits-a"': '"digits-python"' if page == "python" else '"digits-a"'}
    new_session(f"docs/{page}.md", tmp_path, trained.service, names=Training().names(), replaced=replaced).run()
    gc.collect()  # while the warnings about the clients are ignored


@pytest.mark.parametrize(
    "page",
    [
        "analyses",
        "api",
        "cli",
        "evaluation-metrics",
        "evaluations",
        "import",
        "models",
        "reconstruction",
        "samples",
        "storage",
    ],
)
def test_a_page_of_commands(page: str, trained: Trained, tmp_path: Path) -> None:
    if page == "import":
        (tmp_path / "files").mkdir()
        foreign.write_run(tmp_path / "files", [65, 131], [0.05, 0.1], clip_act=None, img_channels=1, label_dim=10)
        (tmp_path / "sd").mkdir()
        for step in (100, 200):
            torch.save({"weight": torch.full((2, 2), float(step))}, tmp_path / "sd" / f"step-{step}-0.1.pt")
    if page == "evaluation-metrics":
        _draw_noisy_digits(tmp_path / "drawn.zip")
    replaced = {
        "rec-81856061ab59f553": trained.reconstruction.id,
        "my-run": "digits-a",
        "create digits-a": "create digits-of-a-file",
        "http://127.0.0.1:8400": trained.service.url,
        "--name xs": "--name xs-import",
        "xs --": "xs-import --",
        '"xs"': '"xs-import"',
    }
    with phema.Client(trained.service.url) as client:
        names = {"phema": phema, "client": client}
        new_session(f"docs/{page}.md", tmp_path, trained.service, names=names, replaced=replaced).run()


def _write_run(folder: Path) -> None:
    """The run of a training loop without a service, as docs/own-training.md writes it."""
    model = torch.nn.Linear(4, 2)
    ema = phema.PowerFunctionEMA(model, sigma_rels=[0.05, 0.10])
    with phema.SnapshotWriter(folder) as writer:
        for time in range(100, 3201, 100):
            ema.update(time)
            if time % 800 == 0:
                writer.save(ema)
        writer.finish()


def _draw_noisy_digits(file: Path) -> None:
    """The digits with added noise, as a zip file of PNG."""
    import zipfile
    from io import BytesIO

    from sklearn.datasets import load_digits

    numbers = np.random.default_rng(0)
    pictures = load_digits().images[:200] / 16 + 0.2 * numbers.normal(size=(200, 8, 8))
    with zipfile.ZipFile(file, "w") as archive:
        for index, picture in enumerate(pictures):
            data = BytesIO()
            Image.fromarray((255 * picture.clip(0, 1)).astype(np.uint8)).save(data, "PNG")
            archive.writestr(f"{index:04d}.png", data.getvalue())


def follow_its_requests(service: Service, folder: Path) -> None:
    """What the sequence asked for is found in the logs of all processes, by the command of the documentation."""
    ((language, command),) = MARKED.findall(METRICS.read_text())
    assert language == "bash"
    (folder / ".phema").symlink_to(service.state)
    with phema.Client(service.url) as client:
        jobs = {job.kind: client.jobs.get(job.id) for job in client.jobs.list(run="readme")}
        parts = {job.id: {part.id for part in client.jobs.list(parent=job.id)} for job in jobs.values()}
    said_by = {
        "train": {
            "phema.services.trainer.control.reconciler",
            "phema.services.trainer.control.driver",
            "phema.services.trainer.control.worker",
        },
        "reconstruct": {"phema.services.phema_worker.job_slot", "phema.services.phema_worker.actor"},
        "evaluate": {"phema.services.phema_worker.job_slot", "phema.services.phema_worker.actor"},
    }
    assert set(jobs) == set(said_by)
    for kind, job in jobs.items():
        env = {**os.environ, "REQUEST": str(job.request_id)}
        found = subprocess.run(["bash", "-c", command], cwd=folder, env=env, capture_output=True, text=True, check=True)
        lines = [json.loads(line) for line in found.stdout.splitlines()]
        (asked,) = (line for line in lines if line["service"] == "api")
        assert (asked["logger"], asked["method"]) == ("phema.services.api.http.request_metrics", "POST")
        assert {line["logger"] for line in lines} >= said_by[kind]
        ids = {"run_id": job.run_id, "request_id": job.request_id}
        assert all(line.items() >= ids.items() for line in lines if line["service"] != "api")
        # The parts of an evaluation carry its request.
        assert {line["job_id"] for line in lines if line["service"] != "api"} == {job.id, *parts[job.id]}
