"""Every measure against an independent implementation, and its jackknife against deleting the pictures themselves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.neighbors import NearestNeighbors

from phema.shared.datasets.digits import load_digits
from phema.shared.datasets.preparation.torchvision_operators import declare_missing_operators
from phema.shared.metrics.feature_extraction import load_extractor
from phema.shared.metrics.figures import BLOCKS, blocks
from phema.shared.metrics.measures.frechet import frechet
from phema.shared.metrics.measures.frechet_infinity import frechet_infinity
from phema.shared.metrics.measures.kernel import kernel_distance
from phema.shared.metrics.measures.neighbours import density_and_coverage, precision_and_recall
from phema.shared.metrics.reference import Reference
from tests.metrics.features import reference_from

declare_missing_operators()
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric  # noqa: E402
from torch_fidelity.metric_kid import kernel_mmd  # noqa: E402
from torch_fidelity.metric_prc import prc_features_to_metric  # noqa: E402

Sides = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module", params=["gaussian", "digits", "digits with noise"])
def sides(request: pytest.FixtureRequest) -> Sides:
    """Features of 600 drawn and 800 reference pictures: made up, or of real digits."""
    if request.param == "gaussian":
        random = np.random.default_rng(3)
        mix = random.standard_normal((24, 24)) / 5
        a, b = random.standard_normal((600, 24)) @ mix + 0.1, random.standard_normal((800, 24)) @ mix
        return a.astype(np.float32), b.astype(np.float32)
    dataset = load_digits(held_out=297)
    pictures = torch.from_numpy(dataset.train.batch(np.arange(1400))[0])
    if request.param == "digits with noise":
        pictures[:600] += 0.2 * torch.randn(600, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    features = load_extractor("digits" if request.param == "digits" else "random", dataset=dataset)(pictures).numpy()
    return features[:600], features[600:]


def test_frechet_distance(sides: Sides) -> None:
    a, b = (side.astype(np.float64) for side in sides)
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)
    found = frechet(sides[0], reference_from(sides[1])).value
    assert found == pytest.approx(expected, rel=1e-6)
    statistics = [fid_features_to_statistics(torch.from_numpy(side)) for side in (a, b)]
    theirs = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert found == pytest.approx(theirs, rel=1e-6)


def test_frechet_distance_for_infinitely_many_pictures(sides: Sides) -> None:
    """A line through the mean distances of all, of halves and of quarters, by torch-fidelity and NumPy's polyfit."""
    reference = fid_features_to_statistics(torch.from_numpy(sides[1].astype(np.float64)))

    def distance(rows: np.ndarray) -> float:
        own = fid_features_to_statistics(torch.from_numpy(rows.astype(np.float64)))
        return float(fid_statistics_to_metric(own, reference, verbose=False)["frechet_inception_distance"])

    rows = sides[0]
    points = [np.mean([distance(part) for part in np.split(rows, number)]) for number in (1, 2, 4)]
    slope, expected = np.polyfit([1 / 600, 2 / 600, 4 / 600], points, 1)
    found = frechet_infinity(rows, reference_from(sides[1]))
    assert found.value == pytest.approx(expected, rel=1e-6)
    assert slope > 0
    # One replicate, with block 7 (pictures 210..239: in the first half, and the second quarter) deleted.
    cut = [
        [np.delete(rows, np.s_[210:240], 0)],
        [np.delete(rows[:300], np.s_[210:240], 0), rows[300:]],
        [rows[:150], np.delete(rows[150:300], np.s_[60:90], 0), rows[300:450], rows[450:]],
    ]
    y = [np.mean([distance(part) for part in division]) for division in cut]
    x = [np.mean([1 / len(part) for part in division]) for division in cut]
    assert found.replicates[7] == pytest.approx(np.polyfit(x, y, 1)[1], rel=1e-6)


def test_the_extrapolation_removes_the_bias() -> None:
    """Two equal Gaussians: the distance is 0, and n pictures give about 0.2; the limit is 0 within its error."""
    random = np.random.default_rng(0)
    reference = reference_from(random.standard_normal((100_000, 16)).astype(np.float32))
    found = [
        (frechet(rows, reference).value, frechet_infinity(rows, reference).value)
        for rows in (random.standard_normal((500, 16)).astype(np.float32) for _ in range(30))
    ]
    plain, limit = np.mean(found, axis=0)
    error = np.std([limit for _, limit in found], ddof=1) / 30**0.5
    assert plain > 0.1
    assert abs(limit) < 3 * error + 0.002
    assert abs(limit) < plain / 15


def test_kernel_distance(sides: Sides) -> None:
    a, b = (side.astype(np.float64) for side in sides)
    found = kernel_distance(sides[0], reference_from(sides[1])).value
    options = {"degree": 3, "coef0": 1}
    aa, bb, ab = (polynomial_kernel(x, y, **options) for x, y in ((a, a), (b, b), (a, b)))
    n, m = len(a), len(b)
    expected = (aa.sum() - np.trace(aa)) / (n * (n - 1)) + (bb.sum() - np.trace(bb)) / (m * (m - 1)) - 2 * ab.mean()
    assert found == pytest.approx(expected, rel=1e-6)
    equal = kernel_distance(sides[0], reference_from(sides[1][:600])).value
    theirs = kernel_mmd(a, b[:600], kid_kernel="poly")
    assert equal == pytest.approx(theirs, rel=1e-6)


def test_kernel_distance_of_many_pictures_uses_subsets() -> None:
    """2,500 pictures in 3 subsets against 1,200 in 2: (0, 0), (1, 1) and (2, 0) are compared."""
    random = np.random.default_rng(0)
    a, b = (random.standard_normal((count, 5)).astype(np.float32) + 0.1 for count in (2500, 1200))
    ours, theirs = [a[i::3].astype(np.float64) for i in range(3)], [b[i::2].astype(np.float64) for i in range(2)]

    def off_diagonal(parts: list[np.ndarray]) -> float:
        kernels = [polynomial_kernel(part, degree=3, coef0=1) for part in parts]
        pairs = sum(len(part) * (len(part) - 1) for part in parts)
        return float(sum(kernel.sum() - np.trace(kernel) for kernel in kernels) / pairs)

    across = [polynomial_kernel(ours[i], theirs[i % 2], degree=3, coef0=1) for i in range(3)]
    mean = sum(kernel.sum() for kernel in across) / sum(kernel.size for kernel in across)
    expected = off_diagonal(ours) + off_diagonal(theirs) - 2 * mean
    assert kernel_distance(a, reference_from(b)).value == pytest.approx(expected, rel=1e-9)


def test_precision_and_recall(sides: Sides) -> None:
    precision, recall = precision_and_recall(sides[0], reference_from(sides[1]))
    a, b = (side.astype(np.float64) for side in sides)
    assert precision.value == pytest.approx(_inside(a, b, 3).any(1).mean(), rel=1e-9)
    assert recall.value == pytest.approx(_inside(b, a, 3).any(1).mean(), rel=1e-9)
    theirs = prc_features_to_metric(torch.from_numpy(a), torch.from_numpy(b), prc_neighborhood=3, verbose=False)
    assert (precision.value, recall.value) == pytest.approx((theirs["precision"], theirs["recall"]), rel=1e-6)
    assert 0 < recall.value < 1


def test_density_and_coverage(sides: Sides) -> None:
    density, coverage = density_and_coverage(sides[0], reference_from(sides[1]))
    inside = _inside(*(side.astype(np.float64) for side in sides), 5)
    assert density.value == pytest.approx(inside.sum() / (5 * len(inside)), rel=1e-9)
    assert coverage.value == pytest.approx(inside.any(0).mean(), rel=1e-9)
    assert 0 < coverage.value < 1


def _inside(points: np.ndarray, balls: np.ndarray, neighbours: int) -> np.ndarray:
    """[points, balls]: whether a point lies in the ball of the k-th nearest neighbour, by scikit-learn's tree."""
    tree = NearestNeighbors(n_neighbors=neighbours, algorithm="kd_tree").fit(balls)
    radii = tree.kneighbors()[0][:, -1]
    found = np.zeros((len(points), len(balls)), bool)
    distances, numbers = NearestNeighbors(n_neighbors=len(balls), algorithm="kd_tree").fit(balls).kneighbors(points)
    np.put_along_axis(found, numbers, distances <= radii[numbers], axis=1)
    return found


MEASURES: dict[str, Callable[[np.ndarray, Reference], list[object]]] = {
    "frechet": lambda x, r: [frechet(x, r)],
    "kernel": lambda x, r: [kernel_distance(x, r)],
    "precision and recall": lambda x, r: list(precision_and_recall(x, r)),
    "density and coverage": lambda x, r: list(density_and_coverage(x, r)),
}


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("count", [600, 147])
def test_a_replicate_is_the_figure_without_the_block(name: str, count: int, sides: Sides) -> None:
    rows, reference = sides[0][:count], reference_from(sides[1])
    found = MEASURES[name](rows, reference)
    for number in (0, 8, BLOCKS - 1):
        block = blocks(count)[number]
        without = MEASURES[name](np.delete(rows, block, axis=0), reference)
        for whole, cut in zip(found, without, strict=True):
            assert whole.replicates[number] == pytest.approx(cut.value, rel=1e-8, abs=1e-12)  # type: ignore[attr-defined]


def test_distances_in_slices_of_little_memory_are_the_same(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = reference_from(sides[1])
    whole = [*precision_and_recall(sides[0], reference), *density_and_coverage(sides[0], reference)]
    monkeypatch.setattr("phema.shared.metrics.measures.neighbours._SLICE_VALUES", 10_000)
    assert [*precision_and_recall(sides[0], reference), *density_and_coverage(sides[0], reference)] == whole


def test_few_pictures_have_no_error() -> None:
    rows = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    reference = reference_from(np.random.default_rng(1).standard_normal((50, 4)).astype(np.float32))
    found = frechet(rows, reference)
    assert (found.standard_error, found.replicates) == (None, ())
    assert frechet(np.repeat(rows, 2, axis=0), reference).standard_error is not None
