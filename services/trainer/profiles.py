"""The averages that a run keeps, as its snapshots and their rows name them."""

from __future__ import annotations

from shared.catalog import Snapshot
from shared.edm2.powerfunction import gamma_from_sigma_rel
from shared.recipes.config import RunConfig
from shared.snapshots.header import Profile


def tracked_profiles(config: RunConfig) -> tuple[Profile, ...]:
    """The power functions in the order of `ema_sigma_rels`, then the traditional EMA where one is kept."""
    profiles = [Profile(sigma_rel=width, gamma=gamma_from_sigma_rel(width)) for width in config.ema_sigma_rels]
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
    return Profile.model_validate(
        {
            "kind": row.profile_kind,
            "sigma_rel": row.sigma_rel,
            "gamma": row.gamma,
            "half_life_images": row.half_life_images,
            "rampup_ratio": row.rampup_ratio,
        }
    )
