"""`examples/classifier.py` of docs/own-training.md: its training, and its choice afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch

from phema.client.client import Client
from phema.local_service.up import running_service
from tests.phema.service import Service
from tests.phema.test_writer import reconstruct

EXAMPLE = Path(__file__).parents[2] / "examples" / "classifier.py"


@pytest.fixture
def example() -> Any:
    return loaded(EXAMPLE)


def loaded(path: Path) -> Any:
    """The module of an example."""
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_average_is_better_than_none(
    example: Any, service: Service, client: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv("PHEMA_STATE_DIR", str(service.settings.state_dir))
    final = example.train(name)
    client.reconstruct(name, example.SIGMA_RELS, wait=False)
    reconstruct(service)  # as a worker would
    scores = example.compare(name, final, tmp_path)
    assert len(scores) == 1 + len(example.SIGMA_RELS)
    assert all(accuracy > 0.9 for accuracy, _ in scores.values())
    losses = {length: loss for length, (_, loss) in scores.items()}
    best = min(losses, key=lambda length: losses[length])
    assert losses[best] < 0.8 * losses["none"]
    assert best not in ("none", "0.02", "0.25")
    assert torch.isfinite(torch.tensor(list(losses.values()))).all()


def test_the_language_model_needs_no_service(tmp_path: Path) -> None:
    example = loaded(EXAMPLE.with_name("language_model.py"))
    train, test = example.texts()
    assert len(train) > 5 * len(test) > 100_000
    example.texts = lambda: (train[:20_000], test[:6_400])
    untrained = example.score(example.LanguageModel().state_dict())
    scores = example.compare(tmp_path, example.train(tmp_path, steps=96))
    assert list(scores) == [
        "last weights",
        *(f"sigma_rel {sigma_rel:g}" for sigma_rel in (0.02, 0.05, 0.1, 0.2)),
        *(f"{shape} decay" for shape in example.DECAYS),
    ]
    assert max(scores.values()) < 0.8 * untrained


@pytest.mark.slow
def test_it_runs_as_its_text_says(tmp_path: Path) -> None:
    with running_service(tmp_path / "state") as url:
        environment = {**os.environ, "PHEMA_URL": url, "PHEMA_STATE_DIR": str(tmp_path / "state")}
        done = subprocess.run(
            [sys.executable, str(EXAMPLE)], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0
    assert list((tmp_path / "state" / "logs" / "ray").glob("session_*/gcs_server.*"))
    assert "lowest cross-entropy: sigma_rel 0." in done.stdout
