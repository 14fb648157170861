"""The demo against the real API, with trainers' and workers' rows written by a thread; what it leaves behind."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import phema
from phema.demos.demo import SIGMA_RELS
from phema.sdk.networks import save_grid
from phema.shared.catalog import JobKind
from phema.shared.edm2.networks.building import build_denoiser
from phema.shared.recipes.presets import resolve
from phema.shared.snapshots.files.snapshot_file import SnapshotMetadata, encode
from phema.shared.snapshots.profile import Profile
from tests.phema.service import Service

CONFIG = resolve("digits-tiny")
BEST = 0.13


def weights() -> bytes:
    network = build_denoiser(CONFIG.network)
    described = SnapshotMetadata(
        run_id="run-1",
        num_images=CONFIG.total_images,
        profile=Profile.power(BEST),
        dtype="float32",
        buffers=tuple(name for name, _ in network.named_buffers()),
        code_version="test",
        config_hash=CONFIG.config_hash,
        config=CONFIG.model_dump(mode="json"),
    )
    return encode(network.state_dict(), described)


class Hands:
    """Does every queued job at once, as if it had been trained, reconstructed or evaluated."""

    def __init__(self, service: Service, pictures: bytes) -> None:
        self._service = service
        self._weights = weights()
        self._pictures = pictures

    def work(self, stopping: threading.Event) -> None:
        while not stopping.wait(0.02):
            with self._service.catalog.transaction(read_only=True) as tx:
                waiting = {row[0] for row in tx.queue_stats.read().counts if row[1] == "queued"}
            if JobKind.TRAIN in waiting:
                self._train()
            if JobKind.RECONSTRUCT in waiting:
                self._reconstruct()
            if JobKind.EVALUATE in waiting:
                self._evaluate()

    def _train(self) -> None:
        job = self._service.claim(JobKind.TRAIN)
        with self._service.catalog.transaction() as tx:
            run = tx.runs.get(job.payload["run_id"])
            for num_images in range(6400, CONFIG.total_images + 1, 6400):
                parts = (("activation", "weight"), ("enc", "dec"), ("8", "4"), ("max", "mean"))
                values = {"/".join(names): 1.0 for names in itertools.product(*parts)}
                values |= {"loss": 0.5, "learning_rate": 0.01, "images_per_second": 640.0, "grad_nonfinite": 0.0}
                tx.history.put(run.id, num_images, values)
            tx.runs.set_progress(run.id, CONFIG.total_images)
        self._service.snapshot(run, times=range(6400, CONFIG.total_images + 1, 6400))
        self._service.finish(job)

    def _reconstruct(self) -> None:
        self._service.reconstruct(self._weights)

    def _evaluate(self) -> None:
        with self._service.catalog.transaction(read_only=True) as tx:
            [oldest, *_] = reversed(tx.jobs.list(kind=JobKind.EVALUATE, state="queued", limit=500).items)
            sigma_rel = tx.evaluations.get(oldest.payload["evaluation_id"]).reconstruction.sigma_rel
        self._service.evaluate(1.0 + 100 * (sigma_rel - BEST) ** 2, self._pictures)


@contextmanager
def hands(service: Service, pictures: bytes) -> Iterator[None]:
    stopping = threading.Event()
    thread = threading.Thread(target=Hands(service, pictures).work, args=(stopping,))
    thread.start()
    yield
    stopping.set()
    thread.join()


class Page(HTMLParser):
    """What a browser would fetch, and what it would show."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "srcset", "href", "action", "data")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def outcome(_api: Service, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """(folder, stdout, stderr) of a demo on the running service."""
    place = tmp_path_factory.mktemp("demo")
    pictures = save_grid(torch.zeros(100, 1, 8, 8), place / "grid.png").read_bytes()
    command = [sys.executable, "-m", "phema.command.main", "--url", _api.url, "demo", "--output", "shown"]
    with hands(_api, pictures):
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return place / "shown", done.stdout, done.stderr


def test_the_demo_leaves_everything_that_it_promises(outcome: tuple[Path, str, str]) -> None:
    folder, out, err = outcome
    grids = {f"samples_{sigma_rel:.2f}.png" for sigma_rel in SIGMA_RELS}
    assert len(grids) == len(SIGMA_RELS) >= 8
    figures = {"frechet.png", "profiles.png", "magnitudes.png", "training.png", "real.png"}
    assert {path.name for path in folder.iterdir()} == grids | figures | {
        "results.json",
        "report.html",
        "best.safetensors",
    }
    for name in ("frechet.png", "profiles.png", "magnitudes.png", "training.png"):
        pixels = np.asarray(Image.open(folder / name).convert("L"))
        assert pixels.shape[1] == 1200
        assert pixels.std() > 5
    results = json.loads((folder / "results.json").read_text())
    assert results["best"] == {"sigma_rel": BEST, "frechet": 1.0}
    assert [trial["sigma_rel"] for trial in results["trials"]] == list(SIGMA_RELS)
    assert phema.load(folder / "best.safetensors").config == CONFIG.network
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[2 : 2 + len(SIGMA_RELS)]] == [f"{s:.2f}" for s in SIGMA_RELS]
    assert "*" in next(line for line in lines if line.strip().startswith("0.13"))
    assert "look at shown/report.html; then type `" in lines[-1]
    assert "3/3  evaluate" in err


def test_the_report_stands_alone(outcome: tuple[Path, str, str]) -> None:
    html = (outcome[0] / "report.html").read_text()
    page = Page()
    page.feed(html)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert page.addresses
    for address in page.addresses:
        head, _, data = address.partition(",")
        assert head == "data:image/png;base64"
        Image.open(io.BytesIO(base64.b64decode(data, validate=True))).verify()
    outside = re.findall(r"https?:|//[a-z]|url\(|@import", re.sub(r"base64,[A-Za-z0-9+/=]+", "", html))
    assert outside == []
    # Four figures for light and dark readers each, two grids side by side, one per length.
    assert len(page.addresses) == 2 * 4 + 2 + len(SIGMA_RELS)
    assert "$" not in page.text
    for sentence in (
        "The Fréchet distance is smallest at σ_rel 13\N{NO-BREAK SPACE}% (1.000)",
        "The best length was not tracked during training.",
        "every gradient was finite",
    ):
        assert sentence in page.text
