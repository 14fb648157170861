"""What a feature extractor is: what decides its features, and which pictures it fits. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from phema.shared.metrics.metric import ScoredRun


@dataclass(frozen=True)
class ExtractorIdentity:
    """Everything that decides the features of a picture. Recorded with each figure."""

    name: str
    num_features: int
    weights_sha256: str = ""
    """SHA-256 (hex) of the weight file; empty for weights that the code defines."""
    resize: str = ""
    """Size, kernel and convention of the resize, such as `224x224 bicubic`; empty without resize."""
    antialias: bool = False
    """Whether the resize kernel is widened when it makes pictures smaller."""
    uint8: bool = False
    """Whether pictures are rounded to 8 bits first, as in a picture file."""
    version: int = 1
    """Raised whenever a feature would change for any other reason."""

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def of(cls, document: dict[str, Any]) -> ExtractorIdentity:
        """From `document()`. Raises TypeError for other fields."""
        return cls(**document)


@dataclass(frozen=True)
class Extractor:
    """One feature space."""

    name: str
    num_features: int
    sees_latents: bool
    """Whether latents are taken as they are. Others see pictures: latents are decoded by the run's VAE first."""
    description: str
    obstacle: Callable[[ScoredRun], str | None]
    """Why the run's pictures do not fit, as the end of a sentence; None if they fit. Reads nothing."""
    module: str
    """Module with the function `load(request: LoadRequest) -> FeatureExtractor`. A name, since it needs torch."""
