"""Reference statistics: what generated pictures are compared with. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phema.shared.metrics.extractor import ExtractorIdentity
from phema.shared.metrics.moments import Moments

MAX_FEATURES = 50_000
"""Feature rows that a reference keeps for the metrics that need single pictures. Moments are those of all pictures."""


@dataclass(frozen=True)
class Reference:
    """Features of the training pictures of a dataset."""

    identity: ExtractorIdentity | None
    """The extractor; None for published statistics, which do not say."""
    fingerprint: str
    """Of the dataset."""
    held_out: int
    """Pictures that were left out, like `dataset.held_out` of a run."""
    moments: Moments
    """Of all `count` pictures, in float64."""
    features: NDArray[np.float32] | None
    """[m, d]: all pictures, or MAX_FEATURES of them, evenly spread; None for published statistics."""
    count: int
    """Number of pictures; 0 if published statistics do not say."""
    vae: str | None = None
    """VAE that decoded the pictures from latents."""

    def identity_document(self) -> dict[str, Any]:
        """What decides the reference, as JSON."""
        return {
            "fingerprint": self.fingerprint,
            "held_out": self.held_out,
            "num_pictures": self.count,
            "num_features_kept": 0 if self.features is None else len(self.features),
            "vae": self.vae,
            "extractor": None if self.identity is None else self.identity.document(),
        }
