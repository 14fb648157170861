"""The code that docs/integrations.md prints, and the examples, as they are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn

import phema
from tests.integrations import test_diffusers, test_lightning, test_transformers

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "integrations.md"
BLOCKS = dict(re.findall(r"<!-- test: (\w+) -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
trained = test_diffusers.trained
"""The fixture: folders of EMAModel, and a pipeline."""


def run(name: str, **given: Any) -> dict[str, Any]:
    """Run the page's block of this name with the names that its text takes for granted."""
    exec(compile(BLOCKS[name], f"{PAGE}: {name}", "exec"), given)
    return given


def widths(location: str) -> set[float | None]:
    return {snapshot.profile.sigma_rel for snapshot in phema.open(location).snapshots()}


def test_every_section_has_a_block_that_runs_here() -> None:
    assert BLOCKS.keys() == {"lightning", "transformers", "accelerate", "diffusers", "mlflow", "wandb"}


@pytest.mark.filterwarnings("ignore")
def test_trainings(tmp_path: Path) -> None:
    run("lightning", model=test_lightning.Sines(), data=test_lightning.batches())
    assert widths("runs/mine") == {0.05, 0.10}
    assert Path("chosen.safetensors").is_file()
    os.chdir(tmp_path_of("transformers", tmp_path))
    run("transformers", model=test_transformers.model(), data=test_transformers.Counting())
    assert len({s.num_images for s in phema.open("runs/mine").snapshots()}) == 5
    os.chdir(tmp_path_of("accelerate", tmp_path))
    model = nn.Linear(4, 2)
    given = {"model": model, "optimizer": torch.optim.SGD(model.parameters(), 0.1), "loss": nn.functional.mse_loss}
    run("accelerate", accelerator=Accelerator(cpu=True), data=test_lightning.batches(), **given)
    assert len({s.num_images for s in phema.open("runs/mine").snapshots()}) == 4


def tmp_path_of(name: str, folder: Path) -> Path:
    (folder / name).mkdir()
    return folder / name


@pytest.mark.filterwarnings("ignore")
def test_averages_of_diffusers_and_trackers(trained: Any, tmp_path: Path) -> None:
    folder, *_ = trained
    Path("trained").symlink_to(folder)
    run("diffusers")
    assert Path("averaged/unet/diffusion_pytorch_model.safetensors").is_file()
    run("mlflow")
    assert Path("mlflow.db").is_file()
    run("wandb")
    assert list(Path("wandb").glob("offline-run-*"))


EXAMPLES = [("with_lightning", ["--epochs", "3"]), ("with_trainer", ["--steps", "60"])]


@pytest.mark.parametrize(("name", "options"), EXAMPLES)
def test_an_example_prints_every_length(name: str, options: list[str]) -> None:
    command = [sys.executable, "-W", "ignore", str(ROOT / "examples" / f"{name}.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lengths = re.findall(r"^sigma_rel (\S+): \d\.\d{4}$", done.stdout, re.MULTILINE)
    assert lengths == ["0.02", "0.05", "0.1", "0.15", "0.2"]
    assert "last weights: " in done.stdout
