"""Reference statistics: the same from files, from stores and from any number of processes; nothing stale is used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from phema.shared.datasets import Dataset, DatasetError, InMemory
from phema.shared.datasets.dataset_checks import DatasetInfo
from phema.shared.datasets.digits import load_digits
from phema.shared.metrics import reference_statistics as statistics
from phema.shared.metrics.errors import ScoringError
from phema.shared.metrics.extractor import ExtractorIdentity
from phema.shared.metrics.feature_extraction import FeatureExtractor, load_extractor
from phema.shared.metrics.provenance import provenance
from phema.shared.metrics.reference import Reference
from phema.shared.metrics.reference_statistics import load, measure, reference_of, save, statistics_path
from phema.shared.metrics.scoring import check_references, score
from phema.shared.snapshots.errors import CorruptObject
from phema.shared.snapshots.stores.interface import ObjectStore
from tests.datasets.photos import npy
from tests.metrics.features import reference_from

DIGITS = load_digits(held_out=297)


@pytest.fixture
def extractor() -> FeatureExtractor:
    return load_extractor("random", dataset=DIGITS)


def same(a: Reference, b: Reference) -> bool:
    """Bit for bit."""
    assert a.features is not None
    assert b.features is not None
    return (
        replace(a, moments=b.moments, features=b.features) == b
        and np.array_equal(a.features, b.features)
        and np.array_equal(a.moments.mean, b.moments.mean)
        and np.array_equal(a.moments.scatter, b.moments.scatter)
    )


def test_all_training_pictures_and_no_others_are_measured(extractor: FeatureExtractor) -> None:
    done: list[int] = []
    found = measure(DIGITS, extractor, progress=done.append)
    rows = extractor(torch.from_numpy(DIGITS.train.batch(np.arange(1500))[0])).numpy()
    assert (found.count, found.held_out, found.fingerprint) == (1500, 297, "scikit-learn digits")
    assert found.features is not None
    np.testing.assert_array_equal(found.features, rows)
    np.testing.assert_allclose(found.moments.cov, np.cov(rows.T.astype(np.float64)), rtol=1e-9, atol=1e-12)
    assert done == [*range(0, 1500, 256), 1500]


def test_of_a_large_dataset_evenly_spread_features_are_kept(
    extractor: FeatureExtractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = measure(DIGITS, extractor)
    monkeypatch.setattr(statistics, "MAX_FEATURES", 700)
    found = measure(DIGITS, extractor)
    assert found.features is not None
    assert whole.features is not None
    np.testing.assert_array_equal(found.features, whole.features[np.arange(700) * 1500 // 700])
    np.testing.assert_array_equal(found.moments.scatter, whole.moments.scatter)


def test_a_file_gives_back_the_same_bits(extractor: FeatureExtractor, tmp_path: Path) -> None:
    measured = measure(DIGITS, extractor)
    save(measured, tmp_path / "a.npz")
    assert same(load(tmp_path / "a.npz"), measured)
    save(load(tmp_path / "a.npz"), tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_the_store_keeps_one_reference_for_all_processes(
    extractor: FeatureExtractor, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = reference_of(DIGITS, extractor, store=store)
    (kept,) = store.list("references/")
    assert kept.key.startswith("references/random-")

    def never(*arguments: object, **options: object) -> Reference:
        raise AssertionError("measured again")

    monkeypatch.setattr(statistics, "measure", never)
    assert same(reference_of(DIGITS, extractor, store=store), measured)
    others: list[tuple[Dataset, FeatureExtractor]] = [
        (load_digits(held_out=100), extractor),
        (DIGITS, _Renamed(extractor, version=2)),
    ]
    for dataset, other in others:
        with pytest.raises(AssertionError, match="measured again"):
            reference_of(dataset, other, store=store)


def test_a_process_that_comes_second_takes_the_bytes_of_the_first(
    extractor: FeatureExtractor, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process, on a machine that rounds differently, writes while this one measures."""
    other = measure(DIGITS, extractor)
    assert other.features is not None
    other.features[0, 0] += 1e-6

    def slow(*arguments: object, **options: object) -> Reference:
        if not [*store.list("references/")]:
            store.put(statistics._key(DIGITS, extractor.identity, None), statistics._bytes(other))
        return measure(DIGITS, extractor)

    monkeypatch.setattr(statistics, "measure", slow)
    assert same(reference_of(DIGITS, extractor, store=store), other)


def test_a_damaged_object_is_named(extractor: FeatureExtractor, store: ObjectStore) -> None:
    reference_of(DIGITS, extractor, store=store)
    (kept,) = store.list("references/")
    data = bytearray(store.get(kept.key))
    data[len(data) // 2] ^= 1
    store.delete(kept.key)
    store.put(kept.key, bytes(data))
    with pytest.raises(CorruptObject, match=r"object references/random-.* cannot be read: .*CRC.*; delete it"):
        reference_of(DIGITS, extractor, store=store)


def test_a_file_next_to_the_dataset_counts_only_if_it_describes_it(extractor: FeatureExtractor, tmp_path: Path) -> None:
    path = str(tmp_path / "photos.zip")
    marked = measure(DIGITS, extractor)
    marked.moments._mean += 1
    for change, taken in (
        ({}, True),
        ({"held_out": 3}, False),
        ({"fingerprint": "other"}, False),
        ({"identity": replace(extractor.identity, weights_sha256="ab")}, False),
        ({"vae": "some/vae"}, False),
    ):
        save(replace(marked, **change), statistics_path(path, "random"))  # type: ignore[arg-type]
        found = reference_of(DIGITS, extractor, path=path)
        assert np.array_equal(found.moments.mean, marked.moments.mean) is taken


def test_latents_need_a_vae_for_extractors_that_see_pictures() -> None:
    info = DatasetInfo("latents", 4, 8, 4, 0, encoding="latents", fingerprint="x")
    none = InMemory(np.zeros((0, 4, 8, 8), np.float32), np.zeros(0, np.int64))
    dataset = Dataset(info, InMemory(np.zeros((4, 4, 8, 8), np.float32), np.zeros(4, np.int64)), none)
    with pytest.raises(ScoringError, match="extractor digits sees pictures, but latents holds latents; name the VAE"):
        reference_of(dataset, load_extractor("digits", dataset=DIGITS))
    found = reference_of(dataset, load_extractor("random", dataset=dataset), vae="not needed")
    assert (found.count, found.vae) == (4, None)


def test_published_statistics_serve_frechet_distances_alone(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((3000, 64))
    np.savez(tmp_path / "published.npz", mu=rows.mean(0), sigma=np.cov(rows.T))
    found = load(tmp_path / "published.npz")
    drawn = (rows[:500] + 0.1).astype(np.float32)
    ours = score(["frechet"], {"random": drawn}, {"random": found})["frechet"]
    theirs = score(["frechet"], {"random": drawn}, {"random": reference_from(rows)})["frechet"]
    assert ours.value == pytest.approx(theirs.value, rel=1e-9)
    assert ours.standard_error == pytest.approx(theirs.standard_error, rel=1e-6)
    with pytest.raises(ScoringError, match="metrics names kernel, which compares single pictures, but the reference"):
        check_references(["frechet", "kernel"], {"random": found})
    with pytest.raises(ScoringError, match="the reference has 64 features, but metric fid needs the 2048"):
        check_references(["fid"], {"inception": found})


def test_a_reference_of_too_few_pictures_is_refused() -> None:
    rows = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    small = {"digits": reference_from(rows, "digits")}
    with pytest.raises(
        ScoringError, match="the reference has 64 pictures, but metric frechet_digits needs at least 65"
    ):
        score(["frechet_digits"], {"digits": np.repeat(rows, 2, axis=0)}, small)
    assert score(["kernel_digits"], {"digits": rows}, small)


def test_features_that_are_not_finite_are_refused() -> None:
    rows = np.random.default_rng(0).standard_normal((100, 64)).astype(np.float32)
    references = {"random": reference_from(rows.copy())}
    rows[3, 5] = np.inf
    with pytest.raises(ScoringError, match="features contain values that are not finite"):
        score(["frechet"], {"random": rows}, references)
    with pytest.raises(ScoringError, match="num_samples is 1, but metric frechet needs at least 2"):
        score(["frechet"], {"random": rows[:1]}, references)


def test_files_of_another_kind_are_named(tmp_path: Path) -> None:
    for data in (b"hello", npy(np.zeros(3)), b""):
        (tmp_path / "s.npz").write_bytes(data)
        with pytest.raises(DatasetError, match=r"statistics .*s\.npz cannot be read"):
            load(tmp_path / "s.npz")
    np.savez(tmp_path / "s.npz", format=np.array(1), mean=np.zeros(3))
    with pytest.raises(
        DatasetError, match="has format 1; this version reads 2: write it again with `phema dataset stats`"
    ):
        load(tmp_path / "s.npz")
    with pytest.raises(DatasetError, match=r"none\.npz cannot be read: No such file"):
        load(tmp_path / "none.npz")


def test_provenance_names_what_decides_the_figures(extractor: FeatureExtractor) -> None:
    reference = measure(DIGITS, extractor)
    found = provenance(
        ["frechet", "held_out_loss"],
        num_samples=1000,
        identities={"random": extractor.identity},
        references={"random": reference},
        held_out=297,
    )
    assert found == {
        "format": 1,
        "num_samples": 1000,
        "jackknife_blocks": 20,
        "held_out": 297,
        "extractors": {
            "random": {
                "name": "random",
                "num_features": 64,
                "weights_sha256": "",
                "resize": "",
                "antialias": False,
                "uint8": False,
                "version": 1,
            }
        },
        "references": {
            "random": {
                "fingerprint": "scikit-learn digits",
                "held_out": 297,
                "num_pictures": 1500,
                "num_features_kept": 1500,
                "vae": None,
                "extractor": found["extractors"]["random"],
            }
        },
    }


class _Renamed:
    """An extractor under another identity."""

    def __init__(self, extractor: FeatureExtractor, **change: object) -> None:
        self._extractor = extractor
        self.identity: ExtractorIdentity = replace(extractor.identity, **change)  # type: ignore[arg-type]

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        return self._extractor(pictures)
