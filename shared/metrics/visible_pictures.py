"""Which pictures an extractor for photographs can see. Torch-free."""

from __future__ import annotations

from phema.shared.metrics.metric import ScoredRun

_LATENT_CHANNELS = 4


def not_visible(run: ScoredRun) -> str | None:
    """Why the pictures cannot be seen, as the end of a sentence; None for grey, RGB and latents that can be decoded."""
    if run.channels in (1, 3):
        return None
    if run.channels == _LATENT_CHANNELS and run.vae is not None:
        return None
    return (
        f"sees pictures of 1 or 3 channels, and these have {run.channels}: latents need dataset.vae, which decodes them"
    )
