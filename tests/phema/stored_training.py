"""A noisy training whose averages are written into a folder, and the same averages tracked in float64."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from phema import SnapshotWriter
from phema.shared.edm2.averaging.ema import PowerFunctionEMA

BATCH, STEPS, EVERY = 32, 320, 20
END = BATCH * STEPS
WANTED = 0.08


class Regression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Tanh())
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.features(x))
        return y


def train(
    writer: SnapshotWriter | None, *, stop: int = STEPS, dtype: str = "float32"
) -> tuple[Regression, dict[str, Tensor]]:
    """Train for `stop` steps and save two averages every EVERY steps. Returns the model and the WANTED average.

    That average is the sum over all steps of the weights times their share of the profile, in float64: no code of
    phema computes it.
    """
    torch.manual_seed(0)
    model = Regression()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    stored = PowerFunctionEMA(model, [0.05, 0.10])
    generator = torch.Generator().manual_seed(1)
    gamma = gamma_of(WANTED)
    direct = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in model.named_parameters()}
    for step in range(1, stop + 1):
        x = torch.randn(BATCH, 8, generator=generator)
        optimizer.zero_grad()
        (model(x) - x[:, :4].sin()).square().mean().backward()
        optimizer.step()
        stored.update(step * BATCH)
        share = (step / stop) ** (gamma + 1) - ((step - 1) / stop) ** (gamma + 1)
        for name, p in model.named_parameters():
            direct[name] += share * p.detach().double()
        if writer is not None and step % EVERY == 0:
            writer.save(step * BATCH, stored, dtype=dtype)  # type: ignore[arg-type]
    return model, direct


def gamma_of(sigma_rel: float) -> float:
    """The exponent whose density (gamma + 1) x^gamma on [0, 1] has this standard deviation, by bisection."""
    low, high = 0.0, 1e3
    for _ in range(200):
        middle = (low + high) / 2
        variance = (middle + 1) / ((middle + 2) ** 2 * (middle + 3))
        low, high = (middle, high) if variance > sigma_rel**2 else (low, middle)
    return low


def distance(file: Path, direct: dict[str, Tensor]) -> float:
    """Relative L2 distance between the parameters in a file and the directly summed ones."""
    found = load_file(file)
    difference = sum(float((found[name].double() - value).square().sum()) for name, value in direct.items())
    return (difference / sum(float(value.square().sum()) for value in direct.values())) ** 0.5
