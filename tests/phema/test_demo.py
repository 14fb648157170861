"""The demo against the real API, with trainers' and workers' rows written by a thread; what it leaves behind."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import phema
from phema.demos.demo import SIGMA_RELS
from phema.sdk.networks import save_grid
from phema.shared.catalog import Evaluation, Run
from phema.shared.edm2.networks.building import build_denoiser
from phema.shared.metrics.figures import FigureValue, jackknifed
from phema.shared.recipes.presets import resolve
from phema.shared.snapshots.files.snapshot_file import SnapshotMetadata, encode
from phema.shared.snapshots.profile import Profile
from tests.phema.hands import hands
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


def score(row: Evaluation, run: Run) -> FigureValue:
    """The constant run is better by 0.2 at every length; blocks of seeds differ by much more."""
    constant = run.config["lr_decay_iterations"] is None
    width = row.reconstruction.sigma_rel
    assert width is not None
    value = (0.4 if constant else 0.6) + 10 * (width - BEST) ** 2
    noise = [(width + constant) * (-1) ** block * 1e-3 for block in range(4)]
    return jackknifed(value, [value + a + b for a, b in zip((0.3, -0.4, 0.2, -0.1), noise, strict=True)])


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
    with hands(_api, score, weights=weights(), pictures=pictures):
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return place / "shown", done.stdout, done.stderr


def test_the_demo_leaves_everything_that_it_promises(outcome: tuple[Path, str, str]) -> None:
    folder, out, err = outcome
    data = {f"ema-length.{format}" for format in ("json", "csv", "svg", "png")}
    assert {path.name for path in folder.iterdir()} == data | {"results.json", "report.html", "best.safetensors"}
    pixels = np.asarray(Image.open(folder / "ema-length.png").convert("L"))
    assert pixels.shape[1] == 1200
    assert pixels.std() > 5
    results = json.loads((folder / "results.json").read_text())
    constant, recipe = results["runs"]["constant"], results["runs"]["recipe"]
    assert results["best"]["run"] == constant["name"]
    assert results["best"]["sigma_rel"] == constant["best"]["sigma_rel"] == BEST
    assert results["difference_between_runs"]["value"] == pytest.approx(0.2)
    assert 0 < results["difference_between_runs"]["standard_error"] < 0.01
    widths = [row["sigma_rel"] for row in results["rows"]]
    assert widths == [*SIGMA_RELS, *SIGMA_RELS]
    assert results["search"]["sentence"] in out
    assert results["figure"] == "frechet_digits"
    assert phema.load(folder / "best.safetensors").config == CONFIG.network
    lines = out.splitlines()
    assert f"{constant['name']} keeps its learning rate: best at σ_rel {BEST:g}, 0.4000 ±" in out
    assert f"{recipe['name']} lowers it: best at σ_rel {BEST:g}, 0.6000 ±" in out
    assert "more than the error explains" in out
    assert "look at shown/report.html; then type `" in lines[-2]
    assert re.fullmatch(rf"the run in the browser: http://\S+/runs/{constant['name']}", lines[-1])
    assert "5/5  write the report" in err


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
    # Curve, search, comparison, profiles, and magnitudes and training of both runs, for light and dark pages; real
    # digits and the best grid; a grid per length.
    assert len(page.addresses) == 2 * (4 + 2 * 2) + 2 + 2 * len(SIGMA_RELS)
    assert "$" not in page.text
    for sentence in (
        f"σ_rel {100 * BEST:g}\N{NO-BREAK SPACE}% scores best (0.4",
        "It was not stored during training.",
        "never lowers its learning rate",
        "with 5,000 pictures, puts the optimum of frechet_digits at 11\N{NO-BREAK SPACE}%",
        "every gradient was finite",
        "How much two trainings of one configuration differ.",
    ):
        assert sentence in page.text, sentence
