"""The training loop that docs/own-training.md prints: updates every k steps, gradient accumulation, restarts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from phema.client.client import Client
from phema.shared.edm2.averaging.power_function import gamma_from_sigma_rel
from tests.phema.service import Service

PAGE = Path(__file__).parents[2] / "docs" / "own-training.md"
BATCH, STEPS = 8, 100


def printed(name: str) -> dict[str, Any]:
    """What the page's block of this name defines."""
    (block,) = re.findall(
        rf"<!-- run by tests/phema/test_own_training_page.py: {name} -->\n```python\n(.*?)```",
        PAGE.read_text(),
        re.DOTALL,
    )
    found: dict[str, Any] = {}
    exec(compile(block, str(PAGE), "exec"), found)
    return found


def batch(step: int, part: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(BATCH, 4, generator=torch.Generator().manual_seed(1000 * step + part))
    return x, x[:, :2].sin()


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


class _Recorded:
    """Gives the batches, and keeps the weights that the training had before each step."""

    def __init__(self, trained: nn.Module, stop: int = STEPS + 1) -> None:
        self.trained, self.stop = trained, stop
        self.weights: dict[int, Tensor] = {}

    def __call__(self, step: int, part: int) -> tuple[Tensor, Tensor]:
        if step == self.stop:
            raise KeyboardInterrupt
        self.weights[step - 1] = self.trained[0].weight.detach().double().clone()  # type: ignore[index]
        return batch(step, part)


def test_the_printed_loop_goes_on_exactly(
    service: Service, client: Client, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHEMA_STATE_DIR", str(service.settings.state_dir))
    page = printed("restarts")
    straight, cut = f"{name}-straight", f"{name}-cut"
    trained = model()
    seen = _Recorded(trained)
    page["train"](trained, seen, STEPS, straight, tmp_path / "straight.pt")
    for stop in (38, 91):
        interrupted = model()
        with pytest.raises(KeyboardInterrupt):
            page["train"](interrupted, _Recorded(interrupted, stop), STEPS, cut, tmp_path / "cut.pt")
    resumed = model()
    page["train"](resumed, batch, STEPS, cut, tmp_path / "cut.pt")
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), resumed.parameters(), strict=True))

    images = page["ACCUMULATE"] * BATCH
    rows = {run: {(s.num_images, s.sigma_rel): s for s in client.runs.snapshots(run)} for run in (straight, cut)}
    assert sorted({time for time, _ in rows[straight]}) == [20 * images, 50 * images, 70 * images, 100 * images]
    assert rows[cut].keys() == rows[straight].keys()
    for (time, sigma_rel), row in rows[straight].items():
        found = load_file(client.download(row.id, tmp_path / "a"))
        other = load_file(client.download(rows[cut][time, sigma_rel].id, tmp_path / "b"))
        assert all(torch.equal(found[key], other[key]) for key in found)
        # Against the weighted mean of the weights at every tenth step, in float64.
        steps = np.arange(page["UPDATE_EVERY"], time // images + 1, page["UPDATE_EVERY"])
        assert sigma_rel is not None
        shares = np.diff((np.array([0, *steps]) / steps[-1]) ** (gamma_from_sigma_rel(sigma_rel) + 1))
        last = {STEPS: trained[0].weight.detach().double()}  # type: ignore[index]
        wanted = sum(share * (seen.weights | last)[int(s)] for share, s in zip(shares, steps, strict=True))
        torch.testing.assert_close(found["0.weight"].double(), wanted, rtol=2**-10, atol=2**-14)
