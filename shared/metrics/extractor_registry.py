"""Every feature extractor, found in `phema.shared.metrics.extractors`. Torch-free."""

from __future__ import annotations

from phema.shared.metrics import extractors
from phema.shared.metrics.discovery import constants
from phema.shared.metrics.errors import ScoringError
from phema.shared.metrics.extractor import Extractor
from phema.shared.metrics.metric import ScoredRun

EXTRACTORS: dict[str, Extractor] = {
    extractor.name: extractor
    for extractor in sorted(constants(extractors, "EXTRACTOR", Extractor), key=lambda extractor: extractor.name)
}


def check_extractor(name: str, run: ScoredRun) -> None:
    """Raise ScoringError unless the extractor exists and fits the run's pictures. Reads nothing; torch-free."""
    if name not in EXTRACTORS:
        raise ScoringError(unknown(name), "extractor")
    if (obstacle := EXTRACTORS[name].obstacle(run)) is not None:
        raise ScoringError(f"extractor {name} {obstacle}", "extractor")


def unknown(name: str) -> str:
    """The sentence for a name that is none of an extractor."""
    return f"extractor {name!r} is unknown; allowed are {', '.join(EXTRACTORS)}"
