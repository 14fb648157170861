"""The profiles of the averages that a run tracks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phema.shared.recipes.run_config import RunConfig
from phema.shared.snapshots.profile import Profile

if TYPE_CHECKING:  # a training step needs no database's packages
    from phema.shared.catalog import Snapshot


def tracked_profiles(config: RunConfig) -> tuple[Profile, ...]:
    """One power function per `ema_sigma_rels`, in that order, then the traditional EMA if the run keeps one."""
    profiles = [Profile.power(width) for width in config.ema_sigma_rels]
    if config.ema_half_life_images is not None:
        profiles.append(
            Profile(
                kind="exponential",
                half_life_images=config.ema_half_life_images,
                rampup_ratio=config.ema_rampup_ratio,
            )
        )
    return tuple(profiles)


def profile_of(row: Snapshot) -> Profile:
    """The profile of a registered snapshot."""
    return Profile.model_validate(row.profile)
