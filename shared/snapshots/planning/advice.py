"""One sentence of advice for a profile with a large predicted error: why, and how to avoid it. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile

POOR_FIT = 0.01
"""A reconstruction with at least this predicted error, relative to the weights, gets advice."""


@dataclass(frozen=True)
class StorageSummary:
    """What is stored, as far as advice depends on it."""

    num_times: int
    smallest_sigma_rel: float | None
    dtypes: frozenset[str]
    basis_range: tuple[float, float] | None = None
    """Smallest and largest sigma_rel of the basis that is read instead of snapshots."""


def summarize_storage(snapshots: Sequence[StoredSnapshot]) -> StorageSummary:
    widths = [s.profile.sigma_rel for s in snapshots if s.profile.sigma_rel is not None]
    return StorageSummary(
        len({s.num_images for s in snapshots}), min(widths, default=None), frozenset(s.dtype for s in snapshots)
    )


def advise(
    profile: Profile, *, predicted: float, rounding: float, initial: float, storage: StorageSummary
) -> str | None:
    """None for a predicted error below POOR_FIT.

    `predicted` and `rounding`: the predicted error and its part due to rounding, relative to the weights. `initial`:
    the share of the profile that lies on the initial weights.
    """
    if predicted < POOR_FIT:
        return None
    miss = f"{profile.label} is expected to miss its weights by {100 * predicted:.2g} %"
    if initial > predicted:
        return f"{miss}: {100 * initial:.2g} % of it lies on the initial weights, which no stored average holds"
    if storage.basis_range is not None:
        low, high = storage.basis_range
        return f"{miss}: it is made from a basis of sigma_rel {low:g} to {high:g}, outside of which it is not exact"
    if rounding > 0.7 * predicted and storage.dtypes - {"float32"}:
        stored = " and ".join(sorted(storage.dtypes - {"float32"}))
        return f"{miss}, most of it rounding of the {stored} snapshots: store a run like this in float32"
    width, smallest = profile.sigma_rel, storage.smallest_sigma_rel
    if width is not None and smallest is not None and width < 0.75 * smallest:
        return (
            f"{miss}: it is shorter than every stored average ({smallest:g} is the shortest); store a third "
            f"one near {width:.2g}, or more snapshots than {storage.num_times}"
        )
    return f"{miss}: {storage.num_times} snapshot times are too few for it; store more of them"
