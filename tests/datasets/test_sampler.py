"""The order of a run: complete epochs, resumable at any image, disjoint by rank."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from phema.shared.datasets import DatasetError, EpochSampler


@pytest.mark.parametrize(("pictures", "batch"), [(7, 1), (7, 3), (10, 10), (5, 12), (1, 4)])
def test_each_picture_is_seen_once_per_epoch(pictures: int, batch: int) -> None:
    sampler = EpochSampler(pictures, seed=3)
    order = np.concatenate([sampler.take(start, batch) for start in range(0, 4 * pictures * batch, batch)])
    for epoch in order.reshape(-1, pictures):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(pictures))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    order = EpochSampler(100, seed=0).take(0, 300).reshape(3, 100)
    other = EpochSampler(100, seed=1).take(0, 100)
    assert not np.array_equal(order[0], order[1])
    assert not np.array_equal(order[1], order[2])
    assert not np.array_equal(order[0], other)


@pytest.mark.parametrize("start", [0, 1, 6, 7, 20])
def test_a_sampler_resumes_at_any_image(start: int) -> None:
    whole = EpochSampler(7, seed=5).take(0, 40)
    np.testing.assert_array_equal(EpochSampler(7, seed=5).take(start, 40 - start), whole[start:])


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_ranks_share_nothing_and_miss_nothing(world_size: int) -> None:
    batch = 12
    single = EpochSampler(25, seed=8)
    ranks = [EpochSampler(25, seed=8, rank=rank, world_size=world_size) for rank in range(world_size)]
    for start in range(0, 120, batch):
        shares = [sampler.take(start, batch // world_size) for sampler in ranks]
        np.testing.assert_array_equal(np.stack(shares, axis=1).ravel(), single.take(start, batch))


def test_the_order_never_changes() -> None:
    """A resumed run may meet another version of this code or of NumPy; its order must stay."""
    assert EpochSampler(10, seed=0).take(0, 10).tolist() == [1, 2, 5, 7, 9, 0, 6, 3, 4, 8]


def test_every_order_is_equally_likely() -> None:
    """Which picture comes first, last and right after which, over 4,000 epochs of 6: chi-squared at 1 in 10,000."""
    count, epochs = 6, 4000
    orders = EpochSampler(count, seed=2).take(0, count * epochs).reshape(epochs, count)
    for place in range(count):
        seen = np.bincount(orders[:, place], minlength=count)
        assert ((seen - epochs / count) ** 2 / (epochs / count)).sum() < 25.7  # 5 degrees of freedom
    pairs = np.bincount((orders[:, 0] * count + orders[:, 1]), minlength=count**2).reshape(count, count)
    likely = epochs / (count * (count - 1))
    apart = ~np.eye(count, dtype=bool)
    assert ((pairs[apart] - likely) ** 2 / likely).sum() < 66.2  # 29 degrees of freedom


def test_many_threads_see_the_same_order() -> None:
    """Threads that read ahead are on both sides of an epoch's end."""
    sampler = EpochSampler(50, seed=4)
    wanted = EpochSampler(50, seed=4).take(0, 2000)
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda start: sampler.take(start, 20), range(0, 2000, 20)))
    np.testing.assert_array_equal(np.concatenate(parts), wanted)


def test_mistakes_are_named() -> None:
    with pytest.raises(DatasetError, match="rank 2 is not below world_size 2"):
        EpochSampler(10, seed=0, rank=2, world_size=2)
    with pytest.raises(DatasetError, match="num_pictures is 0"):
        EpochSampler(0, seed=0)
