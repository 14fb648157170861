"""`PowerFunctionEMA` of other modules than EDM2's, with updates at any interval."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from phema.shared.edm2.averaging.ema import EmaError, PowerFunctionEMA
from phema.shared.edm2.averaging.power_function import gamma_from_sigma_rel

WIDTHS = (0.03, 0.05, 0.10, 0.20)
BATCH, STEPS = 32, 4096


class Tied(nn.Module):
    """A tied pair, a frozen parameter, BatchNorm, an integer parameter and a buffer of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight
        self.frozen = nn.Parameter(torch.randn(2), requires_grad=False)
        self.codes = nn.Parameter(torch.arange(4), requires_grad=False)
        self.register_buffer("phases", torch.randn(3))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.norm(self.embed(x)))
        return y


def wander(module: nn.Module, generator: torch.Generator) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_(noise.to(parameter.dtype), alpha=0.1)


def weighted_mean(history: list[Tensor], times: list[int], sigma_rel: float) -> Tensor:
    """Weights standing for the images since the time before, under the density (g + 1) tau^g / t^(g + 1)."""
    edges = np.array([0, *times]) / times[-1]
    shares = np.diff(edges ** (gamma_from_sigma_rel(sigma_rel) + 1))
    assert sum(shares) == pytest.approx(1, abs=1e-12)
    return sum(share * weights for share, weights in zip(shares, history, strict=True))  # type: ignore[return-value]


@pytest.mark.parametrize("intervals", [[1] * 40, [4] * 10, [1, 7, 2, 2, 13, 1, 5, 9]], ids=["every", "4th", "uneven"])
def test_average_is_the_weighted_mean_of_what_was_seen(intervals: list[int]) -> None:
    module, generator = nn.Linear(4, 3).double(), torch.Generator().manual_seed(1)
    ema = PowerFunctionEMA(module, WIDTHS)
    history, times, step = [], [], 0
    for interval in intervals:
        for _ in range(interval):
            wander(module, generator)
            step += 1
        ema.update(step * BATCH)
        history.append(module.weight.detach().clone())
        times.append(step * BATCH)
    for index, sigma_rel in enumerate(WIDTHS):
        expected = weighted_mean(history, times, sigma_rel)
        torch.testing.assert_close(ema.tensors(index)["weight"], expected, rtol=1e-12, atol=1e-13)


def test_profile_of_updates_every_step_is_the_discrete_power_function() -> None:
    """Response of step i of n: about (i / n)^gamma / n, normalised, for many steps."""
    module = nn.Linear(1, 400, bias=False).double()
    ema = PowerFunctionEMA(module, [0.10])
    with torch.no_grad():
        for i in range(400):
            module.weight.zero_()
            module.weight[i] = 1.0
            ema.update((i + 1) * BATCH)
    response = ema.tensors(0)["weight"][:, 0].numpy()
    wanted = ((np.arange(400) + 0.5) / 400) ** gamma_from_sigma_rel(0.10)
    np.testing.assert_allclose(response, wanted / wanted.sum(), atol=2e-5 * response.max())


def test_rare_updates_err_in_proportion_to_their_interval() -> None:
    """Weights stand for the images before them: where they drift by d per step, updates every k steps are ahead by
    (k - 1) d / 2, less the Euler-Maclaurin term (k^2 - 1) (gamma + 1) d / (12 steps)."""
    module = nn.Linear(1, 1, bias=False).double()
    every, rare = PowerFunctionEMA(module, WIDTHS), {k: PowerFunctionEMA(module, WIDTHS) for k in (4, 16, 64)}
    drift = 1e-3
    for step in range(1, STEPS + 1):
        with torch.no_grad():
            module.weight.fill_(drift * step)
        every.update(step * BATCH)
        for k, ema in rare.items():
            if step % k == 0:
                ema.update(step * BATCH)
    for k, ema in rare.items():
        for index, sigma_rel in enumerate(WIDTHS):
            ahead = float(ema.tensors(index)["weight"] - every.tensors(index)["weight"])
            bend = (k**2 - 1) * (gamma_from_sigma_rel(sigma_rel) + 1) / (12 * STEPS)
            assert ahead == pytest.approx(((k - 1) / 2 - bend) * drift, rel=2e-3)


def test_state_of_a_module_with_everything() -> None:
    module, generator = Tied(), torch.Generator().manual_seed(2)
    ema = PowerFunctionEMA(module, [0.05, 0.10], half_life_images=[64])
    frozen = module.frozen.clone()
    for step in range(1, 6):
        wander(module, generator)
        module(torch.arange(5))
        ema.update(step * BATCH)
    assert len(ema) == 3
    assert ema.buffers == ("codes", "phases", "norm.running_mean", "norm.running_var", "norm.num_batches_tracked")
    own = module.state_dict()
    for index in range(len(ema)):
        state = ema.tensors(index)
        assert list(state) == list(own)
        assert torch.equal(state["embed.weight"], state["head.weight"])
        assert not torch.equal(state["embed.weight"], own["embed.weight"])
        assert torch.equal(state["frozen"], frozen)
        for name in ema.buffers:
            assert torch.equal(state[name], own[name]), name
        Tied().load_state_dict(state, strict=True)


def test_bfloat16_weights_are_averaged_in_float32() -> None:
    """Changes below bfloat16's resolution add up in the average: 512 updates of 1 and then 1.0078125 alternately."""
    module = nn.Linear(1, 1, bias=False).bfloat16()
    ema = PowerFunctionEMA(module, [0.10])
    for step in range(1, 513):
        with torch.no_grad():
            module.weight.fill_(1.0078125 if step % 2 else 1.0)
        ema.update(step * BATCH)
    average = ema.tensors(0)["weight"]
    assert average.dtype == torch.float32
    assert float(average) == pytest.approx(1.00390625, abs=1e-4)


def test_names_are_those_of_the_plain_module() -> None:
    whole, part = Tied(), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    part[1] = torch.compile(part[1], backend="eager")  # type: ignore[assignment]
    assert any("_orig_mod" in name for name, _ in part.named_parameters())
    for wrapped, plain in (
        (torch.compile(whole, backend="eager"), whole),
        (nn.DataParallel(whole), whole),
        (torch.compile(nn.DataParallel(whole), backend="eager"), whole),
        (part, nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))),
        (checkpoint_wrapper(Tied()), whole),
        (
            nn.Sequential(checkpoint_wrapper(nn.Linear(2, 2)), nn.Linear(2, 2)),
            nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)),
        ),
    ):
        ema = PowerFunctionEMA(wrapped, [0.05])  # type: ignore[arg-type]
        ema.update(BATCH)
        assert list(ema.tensors(0)) == list(plain.state_dict())
        names = str(list(ema.state_dict()["averages"][0]))
        assert "_orig_mod" not in names
        assert "_checkpoint_wrapped_module" not in names
        assert not {name for name, p in plain.named_parameters() if p.is_floating_point()} & set(ema.buffers)


def test_a_module_may_have_children_of_any_name() -> None:
    module = nn.Module()
    module._orig_mod = nn.Linear(2, 2)
    assert list(PowerFunctionEMA(module, [0.05]).tensors(0)) == ["_orig_mod.weight", "_orig_mod.bias"]


def test_resume_is_exact(tmp_path: Any) -> None:
    def made() -> tuple[Tied, PowerFunctionEMA]:
        torch.manual_seed(3)
        module = Tied()
        return module, PowerFunctionEMA(module, [0.05, 0.10], half_life_images=100, rampup_ratio=0.05)

    def train(module: Tied, ema: PowerFunctionEMA, steps: range) -> None:
        for step in steps:
            wander(module, torch.Generator().manual_seed(step))
            if step % 3 == 0:
                ema.update(step * BATCH)

    straight, wanted = made()
    train(straight, wanted, range(1, 14))
    before, half = made()
    train(before, half, range(1, 8))  # stops between two updates
    torch.save({"net": before.state_dict(), "ema": half.state_dict()}, tmp_path / "checkpoint.pt")
    after, resumed = made()
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    after.load_state_dict(saved["net"])
    resumed.load_state_dict(saved["ema"])
    assert resumed.num_images == 6 * BATCH
    train(after, resumed, range(8, 14))
    for index in range(3):
        for name, value in wanted.tensors(index).items():
            assert torch.equal(resumed.tensors(index)[name], value), name


def test_mistakes_are_one_sentence() -> None:
    module = nn.Linear(2, 2)
    ema = PowerFunctionEMA(module, [0.05])
    ema.update(64)
    for again in (64, 32, 0):
        with pytest.raises(EmaError, match=rf"num_images {again} must be above 64, the time of the last update"):
            ema.update(again)
    with pytest.raises(EmaError, match=r"num_images 96\.0 must be a whole number of images"):
        ema.update(96.0)  # type: ignore[arg-type]
    with pytest.raises(EmaError, match=r"sigma_rels \[0.05, 0.05\] names an average twice"):
        PowerFunctionEMA(module, [0.05, 0.05])
    with pytest.raises(EmaError, match=r"rampup_ratio 0.05 has no meaning without half_life_images"):
        PowerFunctionEMA(module, [0.05], rampup_ratio=0.05)
    with pytest.raises(EmaError, match="1 traditional averages are saved, 0 are tracked"):
        ema.load_state_dict(PowerFunctionEMA(module, [0.05], half_life_images=64).state_dict())
    module.extra = nn.Parameter(torch.zeros(1))
    with pytest.raises(
        EmaError, match=r"the module's parameters are not those that averages were made of: \['extra'\]"
    ):
        ema.update(128)
    assert ema.num_images == 64
    with pytest.raises(EmaError, match=r"half_life_images 0\.5 must be a whole number of images"):
        PowerFunctionEMA(module, half_life_images=[100, 0.5])  # type: ignore[list-item]
    module = nn.Linear(2, 2)
    module.register_state_dict_post_hook(_renamed)  # type: ignore[no-untyped-call]
    with pytest.raises(EmaError, match="parameter weight has another name in the module's state_dict, or none"):
        PowerFunctionEMA(module, [0.05])


def _renamed(module: nn.Module, state: dict[str, Any], prefix: str, local: Any) -> None:
    state["kernel"] = state.pop("weight")


def test_first_update_replaces_what_is_not_finite() -> None:
    module = nn.Linear(1, 1)
    with torch.no_grad():
        module.weight.fill_(torch.nan)
    ema = PowerFunctionEMA(module, [0.05])
    with torch.no_grad():
        module.weight.fill_(2.0)
    ema.update(64)
    assert float(ema.tensors(0)["weight"]) == 2.0
