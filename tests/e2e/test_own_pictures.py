"""The tutorial for a folder of pictures works as printed: two hundred pictures of all kinds, five commands, a grid."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import phema
from tests.datasets.photos import PHOTOGRAPHS, encoded, photograph
from tests.docs.blocks import ROOT, blocks, run_page
from tests.e2e.conftest import Service

PAGE = "docs/tutorials/own-pictures.md"
TURNED = 7


def mixed_pictures(folder: Path) -> None:
    """Two hundred pictures of two classes: one is broken, one turned by EXIF, one grey, one WebP, the others JPEG."""
    random = np.random.default_rng(0)
    photos = [photograph(name) for name in PHOTOGRAPHS]
    for i in range(200):
        photo = photos[i % len(photos)]
        top, left = (int(random.integers(0, side - 90)) for side in photo.shape[:2])
        picture = photo[top : top + 60 + i % 30, left : left + 60 + i % 23]
        options: dict[str, Any] = {}
        kind, ending = "JPEG", "jpg"
        if i == TURNED:
            options["exif"] = Image.Exif()
            options["exif"][0x0112] = 6
        elif i == 10:
            picture = picture.mean(axis=2).astype(np.uint8)
        elif i == 11:
            kind, ending = "WEBP", "webp"
        data = encoded(picture, kind, **options)
        place = folder / ("cats", "dogs")[i % 2] / f"IMG_{i + 1:04}.{ending}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data[:90] if i == 12 else data)


@pytest.mark.timeout(900)
def test_a_folder_of_pictures_becomes_a_grid_of_samples(service: Service, tmp_path: Path) -> None:
    mixed_pictures(tmp_path / "photos")
    printed = [block for block in blocks(PAGE) if block.language == "bash"]
    steps = [block.text.split()[1:3] for block in printed if "--dry-run" not in block.text]
    assert steps == [["dataset", "convert"], ["up"], ["runs", "create"], ["evaluate", "mine"], ["sample", "mine"]]
    environment = {**os.environ, "PHEMA_URL": service.url}
    converted, _, plan, evaluated, _ = run_page(PAGE, tmp_path, environment)
    for line in next(block.text for block in blocks(PAGE) if block.text.startswith("skipped")).splitlines():
        assert line in converted, "the tutorial shows what the command prints"
    assert "199 of 16x16 RGB, 2 classes (cats, dogs)" in plan
    assert re.search(r"run mine trained on [\d.e+]+ images/s", plan)
    assert re.findall(r"^(0\.\d+) +1,024 +succeeded", evaluated, re.MULTILINE) == ["0.05", "0.1", "0.2"]
    with phema.Client(service.url) as client:
        assert [run.name for run in client.runs.list() if run.name.startswith("mine")] == ["mine"]
        run = client.runs.get("mine")
    assert run.config["dataset"] == {
        "name": "photos",
        "path": str(tmp_path / "photos.zip"),
        "held_out": 20,
        "vae": None,
    }
    assert run.config["network"]["label_dim"] == 2
    with Image.open(tmp_path / "samples.png") as grid:
        assert min(grid.size) >= 8 * 16
        assert grid.convert("L").getextrema()[1] > 64
    with Image.open(tmp_path / "photos" / "dogs" / f"IMG_{TURNED + 1:04}.jpg") as turned:
        assert turned.getexif()[0x0112] == 6


def test_every_block_is_run_or_says_why_not() -> None:
    shells = [block for block in blocks(PAGE) if block.language == "bash"]
    assert [block.text for block in shells if not block.mark.startswith("run")] == ["phema up\n"]
    assert all((ROOT / PAGE).read_text().count(block.text) == 1 for block in shells)
