"""Sampling presets as requests use them."""

from __future__ import annotations

from phema.errors import InvalidArgument
from phema.shared.recipes.sampling_presets import SamplingPreset, UnknownSamplingPreset, sampling_preset


def published_settings(name: str, *, guided: bool) -> SamplingPreset:
    """The sampling preset with this name. `guided`: the request names a guide of its own run.

    Raises InvalidArgument if the name is unknown, or if the figure needs a guide and the request names none.
    """
    try:
        found = sampling_preset(name)
    except UnknownSamplingPreset as error:
        raise InvalidArgument(str(error)) from None
    if found.guide is not None and not guided:
        raise InvalidArgument(
            f"sampling preset {name} is guided by a network of preset {found.guide.preset}; name a run of it with "
            "--guide-run or guide="
        )
    return found
