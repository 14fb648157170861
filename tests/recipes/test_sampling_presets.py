"""Sampling presets hold the published settings, and every one of them is a valid request."""

from __future__ import annotations

import pytest

from phema.shared.recipes.evaluation_recipe import EvaluationRecipe
from phema.shared.recipes.presets import PRESETS
from phema.shared.recipes.sampling_presets import (
    SAMPLING_PRESETS,
    SamplingPreset,
    UnknownSamplingPreset,
    sampling_preset,
)


@pytest.mark.parametrize("preset", SAMPLING_PRESETS.values(), ids=SAMPLING_PRESETS)
def test_a_preset_is_a_valid_recipe_for_trainings_that_exist(preset: SamplingPreset) -> None:
    guide_id = {} if preset.guide is None else {"guide_id": "rec-0"}
    recipe = EvaluationRecipe.model_validate(preset.recipe | guide_id)
    assert recipe.without_effect() is None
    assert (recipe.num_samples, recipe.metrics, recipe.guidance) == (50_000, (preset.figure,), preset.guidance)
    assert preset.name.startswith(preset.preset)
    if preset.guide is None:
        return
    trained, guide = PRESETS[preset.preset].network, PRESETS[preset.guide.preset]
    assert (trained.img_resolution, trained.img_channels) == (guide.network.img_resolution, guide.network.img_channels)
    at = preset.guide.num_images
    # A guide's time has a snapshot: it can be reconstructed.
    assert at is None or (at % guide.config.snapshot_every, at <= guide.config.total_images) == (0, True)


def test_autoguidance_guides_are_trained_for_the_published_share() -> None:
    """T/16, T/3.5 and T/8 of the main network's images."""
    share = {
        name: PRESETS[preset.preset].config.total_images / preset.guide.num_images
        for name, preset in SAMPLING_PRESETS.items()
        if preset.guide is not None and preset.guide.num_images is not None and name.endswith("-fid")
    }
    assert share == {
        "edm2-img512-s-autog-fid": 16,
        "edm2-img512-xxl-autog-fid": 3.5,
        "edm2-img512-s-uncond-autog-fid": 16,
        "edm2-img64-s-autog-fid": 8,
    }


def test_the_headline_figures() -> None:
    best = {name: SAMPLING_PRESETS[f"edm2-img512-{name}"].value for name in ("xxl-fid", "xxl-cfg-fid", "xxl-autog-fid")}
    assert best == {"xxl-fid": 1.91, "xxl-cfg-fid": 1.81, "xxl-autog-fid": 1.25}
    with pytest.raises(UnknownSamplingPreset, match="'edm2-img512-s-fit' is unknown; did you mean 'edm2-img512-s-fid'"):
        sampling_preset("edm2-img512-s-fit")
