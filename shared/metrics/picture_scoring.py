"""Score pictures that lie in files, against a dataset or stored statistics. No network and no service is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from phema.shared.datasets import Dataset, Pictures
from phema.shared.metrics.errors import ScoringError
from phema.shared.metrics.extractor import ExtractorIdentity
from phema.shared.metrics.extractor_registry import EXTRACTORS
from phema.shared.metrics.feature_extraction import FeatureExtractor, load_extractor
from phema.shared.metrics.figures import FigureValue
from phema.shared.metrics.metric import ScoredRun
from phema.shared.metrics.provenance import provenance
from phema.shared.metrics.reference import Reference
from phema.shared.metrics.reference_statistics import reference_of
from phema.shared.metrics.registry import METRICS, check_metrics, default_metrics
from phema.shared.metrics.scoring import check_references, extractors_of, score
from phema.shared.snapshots.stores.interface import ObjectStore

_BATCH = 256

Progress = Callable[[str, int, int], None]
"""Gets what is being done, and the numbers of pictures done and in total."""


@dataclass(frozen=True)
class PictureScores:
    figures: dict[str, FigureValue]
    provenance: dict[str, Any]


def score_pictures(
    drawn: Dataset,
    against: Dataset | Reference,
    names: Sequence[str] | None,
    *,
    path: str | None = None,
    store: ObjectStore | None = None,
    weights_path: Path | None = None,
    device: torch.device | str = "cpu",
    progress: Progress = lambda what, done, total: None,
) -> PictureScores:
    """Figures of the pictures `drawn.train`, in their order, against a dataset or stored statistics.

    `names`: metrics; None for the usual ones of the reference. `path`: of the reference dataset, next to which its
    statistics may lie. Raises ScoringError before any picture is read if something does not fit; DatasetError.
    """
    names = _checked_names(drawn, against, names)
    needed = extractors_of(names)
    extractors = {
        name: load_extractor(name, dataset=drawn, store=store, weights_path=weights_path, device=device)
        for name in needed
    }
    count = len(drawn.train)
    reference_count = len(against.train) if isinstance(against, Dataset) else 0
    total = (count + reference_count) * len(needed)
    references: dict[str, Reference] = {}
    for number, (name, extractor) in enumerate(extractors.items()):
        if isinstance(against, Dataset):
            before = number * reference_count

            def advance(done: int, before: int = before) -> None:
                progress("reading the reference", before + done, total)

            references[name] = reference_of(against, extractor, path=path, store=store, device=device, progress=advance)
        else:
            references[name] = _fitting(against, extractor.identity)
    check_references(names, references)

    done = reference_count * len(needed)
    features: dict[str, NDArray[np.float32]] = {}
    for name, extractor in extractors.items():

        def count_up(part: int, before: int = done) -> None:
            progress("scoring", before + part, total)

        features[name] = _features(drawn.train, extractor, count_up)
        done += count
    progress("scoring", total, total)
    document = provenance(
        names,
        num_samples=count,
        identities={name: extractor.identity for name, extractor in extractors.items()},
        references=references,
    )
    return PictureScores(score(names, features, references), document)


def _checked_names(drawn: Dataset, against: Dataset | Reference, names: Sequence[str] | None) -> Sequence[str]:
    """Metrics that fit the pictures and the reference. Raises ScoringError."""
    count = len(drawn.train)
    run = ScoredRun.of_dataset(drawn)
    if isinstance(against, Dataset):
        _check_shapes(drawn, against)
        run = replace(run, dataset=against.name, held_out=len(against.held_out))
    if names is None:
        names = _usual_of_dataset(run, count) if isinstance(against, Dataset) else _usual_of_statistics(against)
    chosen = tuple(dict.fromkeys(names))
    if without := [name for name in chosen if name in METRICS and METRICS[name].extractor is None]:
        raise ScoringError(f"metrics names {without[0]}, which needs the network; pictures alone have no such figure")
    check_metrics(chosen, run, count)
    if isinstance(against, Reference):
        if len(extractors_of(chosen)) > 1:
            raise ScoringError("metrics names several extractors, but the reference holds the statistics of one")
        check_references(chosen, dict.fromkeys(extractors_of(chosen), against))
    return chosen


def _usual_of_dataset(run: ScoredRun, count: int) -> tuple[str, ...]:
    return tuple(name for name in default_metrics(run, count) if METRICS[name].extractor is not None)


def _usual_of_statistics(reference: Reference) -> tuple[str, ...]:
    """The Fréchet distance in the features of stored statistics. Published ones are recognised by their number."""
    if reference.identity is not None:
        extractor: str | None = reference.identity.name
    else:
        extractor = _PUBLISHED.get(reference.moments.num_features)
    if extractor is None:
        raise ScoringError(
            f"the reference has {reference.moments.num_features} features, and does not say of which extractor; "
            "name the metrics",
            "reference",
        )
    # The plain distance is the first metric of each extractor.
    return (next(name for name, metric in METRICS.items() if metric.extractor == extractor),)


_PUBLISHED = {EXTRACTORS[name].num_features: name for name in ("inception", "dinov2")}


def _check_shapes(drawn: Dataset, against: Dataset) -> None:
    shapes = [
        f"{form.encoding} of {form.resolution}x{form.resolution} with {form.channels} channels"
        for form in (drawn.info, against.info)
    ]
    if shapes[0] != shapes[1]:
        raise ScoringError(
            f"reference {against.name} holds {shapes[1]}, but the pictures to score are {shapes[0]}; use equal ones",
            "reference",
        )


def _fitting(reference: Reference, identity: ExtractorIdentity) -> Reference:
    """The stored statistics. Raises ScoringError if another extractor, or other weights, made them."""
    if reference.identity is not None and reference.identity != identity:
        raise ScoringError(
            f"the reference was made by {_named(reference.identity)}, but the pictures would be scored by "
            f"{_named(identity)}; make it again with `phema dataset stats`",
            "reference",
        )
    return reference


def _named(identity: ExtractorIdentity) -> str:
    weights = f" with weights {identity.weights_sha256[:12]}" if identity.weights_sha256 else ""
    return f"extractor {identity.name}{weights}"


def _features(pictures: Pictures, extractor: FeatureExtractor, progress: Callable[[int], None]) -> NDArray[np.float32]:
    rows = np.empty((len(pictures), extractor.identity.num_features), np.float32)
    for start in range(0, len(pictures), _BATCH):
        progress(start)
        numbers = np.arange(start, min(start + _BATCH, len(pictures)))
        rows[numbers] = extractor(torch.from_numpy(pictures.batch(numbers)[0])).numpy()
    return rows
