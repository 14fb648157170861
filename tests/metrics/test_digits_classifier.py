"""The classifier of digits: good, equal everywhere, kept in the store, and blind to held-out pictures."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from phema.shared.datasets.digits import load_digits
from phema.shared.metrics import feature_extraction
from phema.shared.metrics.extractors.digits import DIGITS, TRAINED_ON
from phema.shared.metrics.feature_extraction import LoadRequest
from phema.shared.metrics.moments import Moments, frechet_distance
from phema.shared.metrics.networks import digits_classifier
from phema.shared.metrics.networks.digits_classifier import DigitsClassifier, load
from phema.shared.snapshots.errors import CorruptObject
from phema.shared.snapshots.stores.interface import ObjectStore

DATASET = load_digits(held_out=297)
_HASH = """
import hashlib, torch
from phema.shared.metrics.networks.digits_classifier import _encode, train
torch.set_num_threads({threads})
torch.manual_seed({seed})
print(hashlib.sha256(_encode(train())).hexdigest())
"""


@pytest.fixture(scope="module")
def classifier() -> DigitsClassifier:
    return digits_classifier.train().eval()


def request(store: ObjectStore | None) -> LoadRequest:
    return LoadRequest(DATASET, store, None, "cpu")


@torch.inference_mode()
def test_it_knows_digits_that_it_has_not_seen(classifier: DigitsClassifier) -> None:
    unseen = load_digits(held_out=DIGITS - TRAINED_ON).held_out
    scores = classifier(torch.from_numpy(unseen.batch(np.arange(len(unseen)))[0]))
    assert float((scores.argmax(1).numpy() == unseen.labels).mean()) > 0.97


def test_it_is_trained_on_no_picture_that_a_run_holds_out() -> None:
    """The first pictures of the order are the same for every number of held-out ones that is allowed."""
    first = load_digits(held_out=0).train.batch(np.arange(TRAINED_ON))[0]
    for held_out in (297, DIGITS - TRAINED_ON):
        dataset = load_digits(held_out=held_out)
        np.testing.assert_array_equal(dataset.train.batch(np.arange(TRAINED_ON))[0], first)


def test_every_process_trains_equal_bits(classifier: DigitsClassifier) -> None:
    """Also with other threads and another state of torch's generator, which training leaves as it was."""
    here = hashlib.sha256(digits_classifier._encode(classifier)).hexdigest()
    script = _HASH.format(threads=2, seed=5)
    there = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    assert there == here


def test_training_leaves_torch_as_it_was() -> None:
    torch.manual_seed(7)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    with torch.inference_mode():
        digits_classifier.train()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_covariances_have_full_rank_and_unit_scale(classifier: DigitsClassifier) -> None:
    with torch.inference_mode():
        rows = classifier.features(torch.from_numpy(DATASET.train.batch(np.arange(1500))[0])).numpy()
    assert np.linalg.matrix_rank(np.cov(rows.T)) == 64
    assert rows.var(axis=0).mean() == pytest.approx(1, abs=0.1)


@torch.inference_mode()
def test_the_distance_grows_with_every_kind_of_damage(classifier: DigitsClassifier) -> None:
    extractor = digits_classifier._Digits(classifier, "", "cpu")
    pictures = torch.from_numpy(DATASET.train.batch(np.arange(1500))[0])
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))

    def moments(seen: torch.Tensor) -> Moments:
        return Moments(64).add(extractor(seen).numpy())

    truth = moments(pictures)
    by_noise = [frechet_distance(moments(pictures + level * noise), truth) for level in (0.0, 0.1, 0.2, 0.4)]
    assert by_noise[0] < 1e-6
    assert by_noise == sorted(by_noise)
    assert by_noise[1] > 0.02
    without_eights = pictures[torch.from_numpy(DATASET.train.labels) != 8]
    assert frechet_distance(moments(without_eights), truth) > 1
    assert frechet_distance(moments(torch.roll(pictures, 1, dims=3)), truth) > 1


@pytest.mark.parametrize("name", ["digits", "random"])
def test_features_do_not_depend_on_neighbours(name: str) -> None:
    """Bit for bit on the CPU, at any place of a batch and however pictures are divided into calls."""
    extractor = feature_extraction.load_extractor(name, dataset=DATASET)
    pictures = torch.from_numpy(DATASET.train.batch(np.arange(150))[0])
    found = extractor(pictures)
    assert (found.shape, found.dtype) == ((150, 64), torch.float32)
    assert torch.equal(extractor(pictures.flip(0)).flip(0), found)
    assert torch.equal(torch.cat([extractor(part) for part in torch.split(pictures, 7)]), found)
    assert torch.equal(extractor(pictures[100:101]), found[100:101])


def test_the_first_in_the_store_counts_for_all(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes race; the second to write, on a machine that rounds differently, takes what is there."""
    first = load(request(store))
    (kept,) = store.list("extractors/")
    assert first.identity.weights_sha256 == hashlib.sha256(store.get(kept.key)).hexdigest()
    assert first.identity.uint8

    def never() -> DigitsClassifier:
        raise AssertionError("trained again")

    monkeypatch.setattr(digits_classifier, "train", never)
    assert load(request(store)).identity == first.identity

    data = store.get(kept.key)
    store.delete(kept.key)

    def slow() -> DigitsClassifier:
        store.put(kept.key, data)
        return DigitsClassifier()

    monkeypatch.setattr(digits_classifier, "train", slow)
    assert load(request(store)).identity == first.identity


def test_threads_that_race_get_one_classifier(store: ObjectStore) -> None:
    with ThreadPoolExecutor(2) as pool:
        found = [future.result() for future in [pool.submit(load, request(store)) for _ in range(2)]]
    assert found[0].identity == found[1].identity
    assert len([*store.list("extractors/")]) == 1


def test_damaged_weights_are_named(store: ObjectStore) -> None:
    load(request(store))
    (kept,) = store.list("extractors/")
    data = store.get(kept.key)
    for damaged in (data[:-4] + b"\0\0\0\1", data[:100], b"hello"):
        store.delete(kept.key)
        store.put(kept.key, damaged)
        with pytest.raises(
            CorruptObject, match=r"object extractors/digits/.*safetensors (is damaged|holds no classifier)"
        ):
            load(request(store))


def test_a_loaded_extractor_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_extraction, "_loaded", {})
    once = feature_extraction.load_extractor("digits", dataset=DATASET)
    assert feature_extraction.load_extractor("digits", dataset=DATASET) is once
    for number, side in enumerate(range(4, 10)):
        info = replace(DATASET.info, resolution=side)
        feature_extraction.load_extractor("random", dataset=replace(DATASET, info=info))
        assert len(feature_extraction._loaded) == min(2 + number, 4)
