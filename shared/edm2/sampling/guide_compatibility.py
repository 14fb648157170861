"""Whether one network can guide another, from their configurations. Torch-free, so that the API can check it."""

from __future__ import annotations

from dataclasses import dataclass

from phema.shared.edm2.networks.config import NetworkConfig


@dataclass(frozen=True)
class GuideMismatch:
    """A field whose value keeps a network from guiding another, its value in the guide, and the allowed values."""

    field: str
    given: int
    allowed: str


def guide_mismatch(main: NetworkConfig, guide: NetworkConfig) -> GuideMismatch | None:
    """None if `guide` can guide `main`, else the first mismatch.

    Pictures must have the same shape, and classes must be the same unless the guide is unconditional. Configuration
    letter, width and depth may differ.
    """
    for field in ("img_resolution", "img_channels"):
        wanted, given = getattr(main, field), getattr(guide, field)
        if given != wanted:
            return GuideMismatch(field, given, str(wanted))
    if guide.label_dim not in (0, main.label_dim):
        return GuideMismatch("label_dim", guide.label_dim, f"{main.label_dim} or 0" if main.label_dim else "0")
    return None
