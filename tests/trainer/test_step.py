"""One iteration: the share of a batch, accumulation, gradients that are not finite, forced weight normalisation."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from phema.services.trainer.training.batches import Batches
from phema.services.trainer.training.flat_gradients import FlatGradients
from phema.services.trainer.training.picture_noise import picture_noise
from phema.services.trainer.training.step import backward_boost, train_step
from phema.services.trainer.training.training_state import TrainingState
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.datasets import EpochSampler, InMemory, open_dataset
from phema.shared.edm2.networks.layers import MPConv
from phema.shared.recipes.run_config import DatasetConfig
from tests.trainer.support import tiny_config

CPU = torch.device("cpu")
DATASET = open_dataset(DatasetConfig())


def trained(steps: int, **fields: object) -> TrainingState:
    config = tiny_config(lr_rampup_images=0, **fields)
    state = TrainingState(config, CPU)
    batches = Batches(DATASET, config, WorkerGroup())
    for _ in range(steps):
        train_step(state, batches.at(state.num_images), config, WorkerGroup())
    return state


def weights(state: TrainingState) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.denoiser.state_dict().items()}


def test_a_batch_is_a_pure_function_of_the_clock() -> None:
    config = tiny_config()
    first, again = Batches(DATASET, config, WorkerGroup()), Batches(DATASET, config, WorkerGroup())
    for num_images in (0, 16, 1488, 16):
        one, other = first.at(num_images), again.at(num_images)
        for name in ("images", "labels", "sigma", "noise"):
            assert torch.equal(getattr(one, name), getattr(other, name))
    assert not torch.equal(first.at(0).noise, first.at(16).noise)


def test_ranks_share_no_picture_and_no_noise() -> None:
    config = tiny_config(num_workers=2)
    left, right = (Batches(DATASET, config, WorkerGroup(rank, 2)).at(32) for rank in range(2))
    assert len(left.images) == len(right.images) == 8
    both = np.concatenate([left.images.numpy(), right.images.numpy()])
    assert len({image.tobytes() for image in both}) == 16
    assert not torch.equal(left.noise, right.noise)


@pytest.mark.parametrize("world_size", [2, 4])
def test_workers_share_out_what_one_would_have_seen(world_size: int) -> None:
    """Pictures, labels, noise levels and noise, bit for bit, in batches that lie across two epochs as well."""
    config = tiny_config()
    for num_images in (0, 1488):
        whole = Batches(DATASET, config, WorkerGroup()).at(num_images)
        shares = [Batches(DATASET, config, WorkerGroup(rank, world_size)).at(num_images) for rank in range(world_size)]
        for name in ("images", "labels", "sigma", "noise"):
            interleaved = torch.stack([getattr(share, name) for share in shares], dim=1).flatten(0, 1)
            assert torch.equal(interleaved, getattr(whole, name)), name


def test_a_picture_keeps_its_noise_in_batches_of_any_size() -> None:
    long = Batches(DATASET, tiny_config(batch_size=80), WorkerGroup()).at(0)
    short = Batches(DATASET, tiny_config(), WorkerGroup())
    for name in ("images", "sigma", "noise"):
        parts = torch.cat([getattr(short.at(start), name) for start in range(0, 80, 16)])
        assert torch.equal(parts, getattr(long, name)), name


def test_noise_is_normal_and_its_level_log_normal() -> None:
    """Moments of 5,000 pictures, and no correlation between neighbours or between a level and its noise."""
    sigma, noise = picture_noise(3, np.arange(5_000), (1, 4, 4), p_mean=-0.4, p_std=1.2)
    z = (sigma.log() + 0.4) / 1.2
    drawn = torch.cat([z[:, None], noise.flatten(1)], dim=1)
    assert drawn.dtype == torch.float32
    torch.testing.assert_close(drawn.mean(dim=0), torch.zeros(17), rtol=0, atol=0.06)
    torch.testing.assert_close(torch.cov(drawn.T), torch.eye(17), rtol=0, atol=0.08)
    neighbours = (drawn[1:] * drawn[:-1]).mean(dim=0)
    torch.testing.assert_close(neighbours, torch.zeros(17), rtol=0, atol=0.06)


def test_labels_are_one_hot_and_absent_for_an_unconditional_network() -> None:
    batch = Batches(DATASET, tiny_config(), WorkerGroup()).at(0)
    assert batch.labels is not None
    assert batch.labels.dtype == torch.float32
    assert torch.equal(batch.labels.sum(dim=1), torch.ones(16))
    assert Batches(DATASET, tiny_config(network={"label_dim": 0}), WorkerGroup()).at(0).labels is None


def test_label_vectors_reach_the_network_as_they_are() -> None:
    vectors = np.random.default_rng(0).standard_normal((len(DATASET.train), 3)).astype(np.float32)
    pictures = InMemory(DATASET.train.batch(np.arange(len(vectors)))[0], vectors)
    config = tiny_config(network={"label_dim": 3}, dataset={"labels": "vectors"})
    batch = Batches(replace(DATASET, train=pictures), config, WorkerGroup()).at(32)
    taken = EpochSampler(len(vectors), seed=config.seed).take(32, 16)
    assert batch.labels is not None
    np.testing.assert_array_equal(batch.labels.numpy(), vectors[taken])


def test_half_of_the_draws_are_mirrored_whoever_reads_them() -> None:
    """And a position of the run is always seen the same way."""
    plain, mirrored = tiny_config(), tiny_config(dataset={"flip": True})
    turned = []
    for start in range(0, 3200, 16):
        before, after = (Batches(DATASET, config, WorkerGroup()).at(start) for config in (plain, mirrored))
        same = (before.images == after.images).flatten(1).all(dim=1)
        flipped = (before.images.flip(-1) == after.images).flatten(1).all(dim=1)
        assert bool((same ^ flipped).all())
        assert torch.equal(before.noise, after.noise)
        turned.append(flipped)
    share = torch.cat(turned).float()
    assert abs(float(share.mean()) - 0.5) < 0.03
    assert abs(float(torch.corrcoef(torch.stack([share[1:], share[:-1]]))[0, 1])) < 0.05
    halves = [Batches(DATASET, mirrored, WorkerGroup(rank=rank, world_size=2)).at(64).images for rank in range(2)]
    whole = Batches(DATASET, mirrored, WorkerGroup()).at(64).images
    assert torch.equal(torch.stack(halves, dim=1).flatten(0, 1), whole)


def test_the_step_follows_the_papers_loss() -> None:
    """The gradient of one step is that of Eq. 21, summed over elements and pictures and divided by the batch size."""
    config = tiny_config(loss_scaling=2.0)
    state, batches = TrainingState(config, CPU), Batches(DATASET, config, WorkerGroup())
    train_step(state, batches.at(0), config, WorkerGroup())  # learning rate 0: the weights stay
    ours = state.gradients.flat.clone()

    batch = batches.at(0)
    sigma = batch.sigma[:, None, None, None]
    weight = (sigma**2 + 0.5**2) / (sigma * 0.5) ** 2
    error = (state.denoiser(batch.images + sigma * batch.noise, batch.sigma, batch.labels) - batch.images) ** 2
    u = state.denoiser.logvar(batch.sigma)[:, None, None, None]
    loss = weight / u.exp() * error + u
    gradients = torch.autograd.grad(loss.sum() * 2.0 / 16, list(state.denoiser.parameters()))
    torch.testing.assert_close(ours, torch.cat([g.flatten() for g in gradients]), rtol=1e-4, atol=1e-5)


def test_the_boost_of_half_precision_is_undone_exactly() -> None:
    """On a float32 network, where nothing underflows: the same bits, though the passes were multiplied by 8."""
    config = tiny_config(batch_size=512, total_images=512, snapshot_every=512, checkpoint_every=512, status_every=512)
    halved = config.model_copy(update={"precision": "float16"})
    assert (backward_boost(config), backward_boost(halved)) == (1.0, 8.0)
    gradients = []
    for each in (config, halved):
        state = TrainingState(config, CPU)
        seen: list[Tensor] = []
        state.denoiser.unet.out_gain.register_hook(seen.append)
        train_step(state, Batches(DATASET, config, WorkerGroup()).at(0), each, WorkerGroup())
        gradients.append((seen[0], state.gradients.flat))
    (passed, kept), (passed_boosted, kept_boosted) = gradients
    assert torch.equal(passed_boosted, 8 * passed)
    assert torch.equal(kept_boosted, kept)
    assert kept.abs().max() > 0


@pytest.mark.parametrize(
    ("batch", "boost"), [(2048, 32.0), (4096, 64.0), (64, 1.0), (16, 1.0), (96, 2.0), (1536, 32.0)]
)
def test_the_boost_is_that_of_the_authors_parts_of_the_batch(batch: int, boost: float) -> None:
    config = tiny_config().model_copy(update={"precision": "bfloat16", "batch_size": batch})
    assert backward_boost(config) == boost


@pytest.mark.parametrize("limit", [1, 5, 8])
def test_accumulation_gives_the_weights_of_one_batch(limit: int) -> None:
    whole, parts = weights(trained(4)), weights(trained(4, max_batch_per_worker=limit))
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_weights_are_forced_to_unit_magnitude_before_the_step() -> None:
    config = tiny_config()  # ramp-up: the first step has learning rate 0
    state = TrainingState(config, CPU)
    with torch.no_grad():
        for parameter in state.denoiser.parameters():
            parameter.mul_(3.0)
    train_step(state, Batches(DATASET, config, WorkerGroup()).at(0), config, WorkerGroup())
    for layer in state.denoiser.modules():
        if isinstance(layer, MPConv):
            rms = layer.weight.flatten(1).square().mean(dim=1).sqrt()
            torch.testing.assert_close(rms, torch.ones_like(rms), rtol=1e-3, atol=0)


def test_the_first_average_is_the_weights_after_the_first_step() -> None:
    state = trained(1)
    for average in range(2):
        for name, value in state.ema.tensors(average).items():
            assert torch.equal(value, state.denoiser.state_dict()[name])


@pytest.mark.parametrize("chunk", [2**26, 3])
def test_nonfinite_gradients_become_zero_and_are_counted(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phema.services.trainer.training.flat_gradients.CHUNK", chunk)
    layer = nn.Linear(3, 2)
    gradients = FlatGradients(layer.parameters())
    loss = (layer(torch.ones(1, 3)) * torch.tensor([[float("nan"), 1.0]])).sum()
    loss.backward()
    assert int(gradients.drop_nonfinite_()[0]) == 4  # a row of the weight and its bias
    assert layer.weight.grad is not None
    assert torch.equal(layer.weight.grad, torch.tensor([[0.0] * 3, [1.0] * 3]))
    gradients.flat[:2] = torch.tensor([float("inf"), -float("inf")])
    count, norm = gradients.drop_nonfinite_()
    assert int(count) == 2
    assert torch.isfinite(gradients.flat).all()
    assert float(norm) == pytest.approx(math.hypot(*gradients.flat.tolist()))


def test_a_picture_that_is_not_finite_does_not_poison_the_weights() -> None:
    config = tiny_config(lr_rampup_images=0)
    state, batches = TrainingState(config, CPU), Batches(DATASET, config, WorkerGroup())
    batch = batches.at(0)
    batch.images[3] = float("nan")
    figures = train_step(state, batch, config, WorkerGroup())
    assert int(figures.nonfinite) > 0
    assert all(torch.isfinite(value).all() for value in weights(state).values())
    after = train_step(state, batches.at(16), config, WorkerGroup())
    assert int(after.nonfinite) == 0
    assert torch.isfinite(after.loss)


def test_gradients_are_views_that_survive_backward() -> None:
    layer = nn.Linear(3, 2)
    gradients = FlatGradients(layer.parameters())
    for _ in range(2):
        layer(torch.ones(1, 3)).sum().backward()
    assert torch.equal(gradients.flat, torch.full((8,), 2.0))
    gradients.zero_()
    assert layer.bias.grad is not None
    assert layer.bias.grad.abs().sum() == 0
