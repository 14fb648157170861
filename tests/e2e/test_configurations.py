"""Every configuration of the paper trains through the REST API, and what it draws are digits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

import phema
from tests.e2e.conftest import Service

PRESETS = ("digits-a", "digits-b", "digits-c", "digits-d", "digits-e", "digits-f", "digits-tiny")
PER_CLASS = 20
CONFIG = {
    "total_images": 51_200,
    "snapshot_every": 6_400,
    "checkpoint_every": 25_600,
    "status_every": 6_400,
}


@pytest.fixture(scope="module")
def reader() -> KNeighborsClassifier:
    """Tells real digits apart with an accuracy of 98 %."""
    digits = load_digits()
    return KNeighborsClassifier(5).fit(digits.data / 8 - 1, digits.target)


@pytest.fixture
def client(service: Service) -> Iterator[phema.Client]:
    with phema.Client(service.url) as client:
        yield client


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("preset", PRESETS)
def test_it_draws_the_digits_it_is_asked_for(
    preset: str, client: phema.Client, reader: KNeighborsClassifier, tmp_path: Path
) -> None:
    client.runs.create(f"draws-{preset}", preset, CONFIG)
    client.runs.watch(f"draws-{preset}", timeout=900)
    (weights,) = client.reconstruct(f"draws-{preset}", 0.07)
    denoiser = phema.load(client.download(weights.id, tmp_path / "weights.safetensors"))
    asked = torch.arange(10).repeat_interleave(PER_CLASS)
    pictures = phema.sample(denoiser, seeds=range(len(asked)), class_labels=asked, num_steps=16)
    read = torch.from_numpy(reader.predict(pictures.flatten(1).numpy()))
    share = (read == asked).double().mean().item()
    # Noise, or one digit for all, would be read as asked one time in ten.
    assert share > 0.7, f"{share:.0%} of the pictures show the digit that was asked for"
