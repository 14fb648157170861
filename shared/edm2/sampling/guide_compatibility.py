"""Which network may guide which, known from their configurations alone. Torch-free, so that the API can ask."""

from __future__ import annotations

from dataclasses import dataclass

from phema.shared.edm2.networks.config import NetworkConfig


@dataclass(frozen=True)
class GuideMismatch:
    """The field that keeps one network from guiding another, its value in the guide, and what it should be."""

    field: str
    given: int
    allowed: str


def guide_mismatch(main: NetworkConfig, guide: NetworkConfig) -> GuideMismatch | None:
    """None when `guide` can guide `main`: pictures of one shape, the same classes unless the guide knows none.

    Configuration, width and depth may differ.
    """
    for field in ("img_resolution", "img_channels"):
        wanted, given = getattr(main, field), getattr(guide, field)
        if given != wanted:
            return GuideMismatch(field, given, str(wanted))
    if guide.label_dim not in (0, main.label_dim):
        return GuideMismatch("label_dim", guide.label_dim, f"{main.label_dim} or 0" if main.label_dim else "0")
    return None
