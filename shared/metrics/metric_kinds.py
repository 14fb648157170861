"""Metrics of the usual kinds, for any feature extractor. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from phema.shared.metrics.metric import FROM_PICTURES, Figure, Metric, ScoredRun

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from phema.shared.metrics.figures import FigureValue
    from phema.shared.metrics.reference import Reference

_NEIGHBOURHOOD = 10
"""Smallest number of pictures whose nearest neighbours are asked for, also without one block of the jackknife."""


def _never(run: ScoredRun) -> bool:
    return False


def frechet(
    name: str,
    *,
    extractor: str,
    space: str,
    rank: int,
    full_rank: bool = True,
    default_for: Callable[[ScoredRun], bool] = _never,
) -> Metric:
    """Fréchet distance, as one figure of the metric's name. `space` describes the features, as in "in SPACE"."""

    def compute(features: NDArray[np.float32], reference: Reference) -> dict[str, FigureValue]:
        from phema.shared.metrics.measures.frechet import frechet

        return {name: frechet(features, reference)}

    description = f"Fréchet distance between drawn and training pictures in {space}"
    return Metric(
        name=name,
        figures=(Figure(name, "lower", "", description),),
        rank=rank,
        needs=FROM_PICTURES,
        extractor=extractor,
        minimum=2,
        full_rank=full_rank,
        default_for=default_for,
        compute=compute,
    )


def frechet_infinity(name: str, *, extractor: str, space: str, rank: int) -> Metric:
    """Fréchet distance extrapolated to infinitely many pictures, as one figure of the metric's name."""

    def compute(features: NDArray[np.float32], reference: Reference) -> dict[str, FigureValue]:
        from phema.shared.metrics.measures.frechet_infinity import frechet_infinity

        return {name: frechet_infinity(features, reference)}

    description = f"Fréchet distance in {space}, extrapolated to infinitely many drawn pictures"
    return Metric(
        name=name,
        figures=(Figure(name, "lower", "", description),),
        rank=rank,
        needs=FROM_PICTURES,
        extractor=extractor,
        full_rank=True,
        groups=4,
        compute=compute,
    )


def kernel(name: str, *, extractor: str, space: str, rank: int) -> Metric:
    """Kernel distance, as one figure of the metric's name."""

    def compute(features: NDArray[np.float32], reference: Reference) -> dict[str, FigureValue]:
        from phema.shared.metrics.measures.kernel import kernel_distance

        return {name: kernel_distance(features, reference)}

    return Metric(
        name=name,
        figures=(
            Figure(name, "lower", "", f"Unbiased squared maximum mean discrepancy with a cubic kernel in {space}"),
        ),
        rank=rank,
        needs=FROM_PICTURES,
        extractor=extractor,
        minimum=4,
        needs_features=True,
        compute=compute,
    )


def precision_recall(*, extractor: str, space: str, rank: int, suffix: str = "") -> Metric:
    """Precision and recall, as two figures; `suffix` ends the names of metric and figures."""
    precision, recall = f"precision{suffix}", f"recall{suffix}"

    def compute(features: NDArray[np.float32], reference: Reference) -> dict[str, FigureValue]:
        from phema.shared.metrics.measures.neighbours import precision_and_recall

        return dict(zip((precision, recall), precision_and_recall(features, reference), strict=True))

    return Metric(
        name=f"precision_recall{suffix}",
        figures=(
            Figure(precision, "higher", "", f"Share of drawn pictures near training pictures in {space}"),
            Figure(recall, "higher", "", f"Share of training pictures near drawn pictures in {space}"),
        ),
        rank=rank,
        needs=FROM_PICTURES,
        extractor=extractor,
        minimum=_NEIGHBOURHOOD,
        needs_features=True,
        compute=compute,
    )


def density_coverage(*, extractor: str, space: str, rank: int, suffix: str = "") -> Metric:
    """Density and coverage, as two figures; `suffix` ends the names of metric and figures."""
    density, coverage = f"density{suffix}", f"coverage{suffix}"

    def compute(features: NDArray[np.float32], reference: Reference) -> dict[str, FigureValue]:
        from phema.shared.metrics.measures.neighbours import density_and_coverage

        return dict(zip((density, coverage), density_and_coverage(features, reference), strict=True))

    return Metric(
        name=f"density_coverage{suffix}",
        figures=(
            Figure(density, "higher", "", f"Neighbourhoods of training pictures around a drawn picture in {space}"),
            Figure(coverage, "higher", "", f"Share of training pictures with a drawn picture near them in {space}"),
        ),
        rank=rank,
        needs=FROM_PICTURES,
        extractor=extractor,
        minimum=_NEIGHBOURHOOD,
        needs_features=True,
        compute=compute,
    )
