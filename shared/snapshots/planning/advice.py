"""One sentence for a profile that will not come out well: why, and what would mend it. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile

POOR = 0.01
"""Predicted error of the weights from which a reconstruction comes with advice."""


@dataclass(frozen=True)
class Facts:
    """What is stored, as far as advice depends on it."""

    times: int
    narrowest: float | None
    """Smallest sigma_rel stored."""
    dtypes: frozenset[str]
    reach: tuple[float, float] | None = None
    """Range of sigma_rel of the basis that is read instead of snapshots."""


def facts(snapshots: Sequence[StoredSnapshot]) -> Facts:
    widths = [s.profile.sigma_rel for s in snapshots if s.profile.sigma_rel is not None]
    return Facts(
        len({s.num_images for s in snapshots}), min(widths, default=None), frozenset(s.dtype for s in snapshots)
    )


def advise(profile: Profile, *, predicted: float, rounding: float, initial: float, facts: Facts) -> str | None:
    """None below POOR. `initial`: share of the profile that lies on the initial weights."""
    if predicted < POOR:
        return None
    said = f"{profile.label} is expected to miss its weights by {100 * predicted:.2g} %"
    if initial > predicted:
        return f"{said}: {100 * initial:.2g} % of it lies on the initial weights, which no stored average holds"
    if facts.reach is not None:
        low, high = facts.reach
        return f"{said}: it is made from a basis of sigma_rel {low:g} to {high:g}, outside of which it is not exact"
    if rounding > 0.7 * predicted and facts.dtypes - {"float32"}:
        stored = " and ".join(sorted(facts.dtypes - {"float32"}))
        return f"{said}, most of it rounding of the {stored} snapshots: store a run like this in float32"
    width = profile.sigma_rel
    if width is not None and facts.narrowest is not None and width < 0.75 * facts.narrowest:
        return (
            f"{said}: it is shorter than every stored average ({facts.narrowest:g} is the shortest); store a third "
            f"one near {width:.2g}, or more snapshots than {facts.times}"
        )
    return f"{said}: {facts.times} snapshot times are too few for it; store more of them"
