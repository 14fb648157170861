"""What decided the figures of an evaluation, as JSON to record with them. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from phema.shared.metrics.extractor import ExtractorIdentity
from phema.shared.metrics.figures import blocks
from phema.shared.metrics.reference import Reference
from phema.shared.metrics.registry import METRICS

FORMAT = 1


def provenance(
    names: Sequence[str],
    *,
    num_samples: int,
    identities: Mapping[str, ExtractorIdentity],
    references: Mapping[str, Reference],
    held_out: int = 0,
) -> dict[str, Any]:
    """For the metrics `names`: extractors and references by extractor name, and the numbers of pictures.

    `held_out` is the number of pictures behind metrics that need no sampling. Two figures of one name can be compared
    if their documents are equal in `extractors` and `references`.
    """
    return {
        "format": FORMAT,
        "num_samples": num_samples,
        "jackknife_blocks": len(blocks(num_samples)),
        "held_out": held_out if any("held_out" in METRICS[name].needs for name in names) else 0,
        "extractors": {name: identity.document() for name, identity in identities.items()},
        "references": {name: reference.identity_document() for name, reference in references.items()},
    }
