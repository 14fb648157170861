"""The searches that docs/learned-averages.md prints run in a folder without a service."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import phema
from tests.docs.blocks import Session

BATCH, STEPS = 8, 600
MARK = "run by tests/docs/test_learned_page.py"


def example(count: int, seed: int) -> Tensor:
    """Inputs [count, 4] and noisy targets [count, 1], side by side."""
    numbers = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 4, generator=numbers)
    return torch.cat([inputs, inputs.sum(1, keepdim=True).tanh() + 0.3 * torch.randn(count, 1, generator=numbers)], 1)


def loss(model: nn.Module, examples: Tensor) -> list[float]:
    """One squared error for each example."""
    with torch.no_grad():
        errors: list[float] = (model(examples[:, :4]) - examples[:, 4:]).square().flatten().tolist()
    return errors


def test_the_searches_of_the_page(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    ema = phema.PowerFunctionEMA(model, sigma_rels=[0.05, 0.10])
    with phema.SnapshotWriter(tmp_path / "runs" / "mine") as writer:
        for step in range(1, STEPS + 1):
            batch = example(BATCH, step)
            optimizer.zero_grad()
            nn.functional.mse_loss(model(batch[:, :4]), batch[:, 4:]).backward()
            optimizer.step()
            ema.update(step * BATCH)
            if step % 40 == 0:
                writer.save(ema)
        writer.finish()
    validation = example(1000, seed=1_000_000)

    def score(path: Path) -> float:
        model.load_state_dict(load_file(path))
        return sum(loss(model, validation))

    names = {"model": model, "loss": loss, "validation": validation, "score": score}
    session = Session("docs/learned-averages.md", tmp_path, {}, names=dict(names), marks=(MARK,))
    learned, asked = session.run()
    assert "best EMA length" in learned or "sigma_rel" in learned, learned
    assert asked
    assert (tmp_path / "learned.safetensors").is_file()
    found = session.names["found"]
    assert found.held_out.examples == 500
    assert found.score <= found.best_length_score
