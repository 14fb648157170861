"""Averages tracked directly in float64, beside those that the libraries' trainings wrote."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import phema
from phema.shared.edm2.averaging.power_function import gamma_from_sigma_rel

HALF = 2.0**-11
"""Relative rounding of float16, in which snapshots are stored."""


class DirectAverages:
    """One float64 average per width; each update gives the weights the share of the images since the last one."""

    def __init__(self, sigma_rels: tuple[float, ...]) -> None:
        self._gammas = {width: gamma_from_sigma_rel(width) for width in sigma_rels}
        self._last = 0
        self.values: dict[float, dict[str, Tensor]] = {width: {} for width in sigma_rels}
        self.at: dict[int, dict[float, dict[str, Tensor]]] = {}
        """Copies of `values`, by time."""

    @torch.no_grad()
    def update(self, module: nn.Module, num_images: int) -> None:
        for width, gamma in self._gammas.items():
            kept = (self._last / num_images) ** (gamma + 1)
            for name, weight in module.named_parameters():
                before = self.values[width].get(name, torch.zeros((), dtype=torch.float64))
                self.values[width][name] = kept * before + (1 - kept) * weight.double()
        self._last = num_images
        self.at[num_images] = {width: dict(values) for width, values in self.values.items()}


def stored_tensors(location: str | Path) -> dict[tuple[int, float | None, str], Tensor]:
    """Every tensor of every snapshot of the run, by time, width and name."""
    run = phema.open(location)
    found = {}
    for snapshot in run.snapshots():
        path = run.store.local_path(snapshot.key)
        assert path is not None
        for name, tensor in load_file(path).items():
            found[snapshot.num_images, snapshot.profile.sigma_rel, name] = tensor
    return found


def check_same_snapshots(first: str | Path, second: str | Path) -> None:
    """Two runs hold the same times and widths, and the same tensors, bit for bit."""
    wanted, found = stored_tensors(first), stored_tensors(second)
    assert wanted.keys() == found.keys()
    assert [key for key in wanted if not torch.equal(wanted[key], found[key])] == []


def check_snapshots(location: str | Path, direct: DirectAverages, times: list[int]) -> None:
    """Every snapshot of the run is the direct average at its time, but for float16's rounding; no other is there."""
    stored = stored_tensors(location)
    keys = {(time, width) for time, width, _ in stored}
    assert sorted({time for time, _ in keys}) == times
    for time, width in keys:
        assert width is not None
        for name, value in direct.at[time][width].items():
            torch.testing.assert_close(stored[time, width, name].double(), value, rtol=HALF, atol=1e-6)


def check_reconstruction(location: str | Path, direct: DirectAverages, width: float, output: Path) -> float:
    """Error of the reconstruction of `width` at the last time, relative to the movement of its average.

    The direct average of this width must have been tracked too.
    """
    [chosen] = phema.open(location).reconstruct(width, output=output)
    made = load_file(chosen.path)
    times = sorted(direct.at)
    last, first = direct.at[times[-1]][width], direct.at[times[0]][width]
    wrong = sum(float((made[name].double() - value).square().sum()) for name, value in last.items())
    moved = sum(float((first[name] - value).square().sum()) for name, value in last.items())
    return (wrong / moved) ** 0.5
