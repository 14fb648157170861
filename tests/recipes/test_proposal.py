"""Configurations that follow from a dataset."""

from __future__ import annotations

import pytest

from phema.shared.datasets import DatasetInfo
from phema.shared.edm2.networks.costs import costs
from phema.shared.edm2.networks.memory import activations_per_picture
from phema.shared.recipes.completion import complete
from phema.shared.recipes.proposal import dataset_name, fitted, held_out_pictures, propose
from phema.shared.recipes.run_config import RunConfig

COUNTS = (1, 2, 50, 200, 5_000, 60_000, 1_281_167)


def proposed(count: int, resolution: int, *, channels: int = 3, classes: int = 0) -> RunConfig:
    encoding = "latents" if channels == 4 else "pictures"
    info = DatasetInfo("mine", count, resolution, channels, classes, encoding=encoding)
    found = propose(info, "/data/mine.zip", None)
    return complete(found.preset, found.fields, found.recipes, {})


@pytest.mark.parametrize("resolution", [1, 7, 8, 12, 16, 28, 32, 33, 50, 64, 100, 256, 1000, 4096])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_dataset_gets_a_valid_configuration_that_fits_it(resolution: int, channels: int) -> None:
    for count in COUNTS:
        config = proposed(count, resolution, channels=channels, classes=3)
        network = config.network
        assert (network.img_resolution, network.img_channels, network.label_dim) == (resolution, channels, 3)
        assert config.dataset.held_out < count
        at_once = 4 * config.microbatch * activations_per_picture(network)
        assert at_once <= 2**33 or config.microbatch == 1, "the activations of a worker fit 8 GiB"
        assert network.levels[-1][0] >= min(4, resolution)


def test_more_pictures_get_larger_networks_and_longer_trainings() -> None:
    found = [proposed(count, 64) for count in COUNTS[2:]]
    sizes = [costs(config.network).num_parameters for config in found]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 4
    assert [config.total_images for config in found] == sorted(config.total_images for config in found)
    assert (found[-1].network.model_channels, found[-1].network.channel_mult) == (192, (1, 2, 3, 4)), "that of EDM2-S"


def test_a_single_class_is_no_label_and_overrides_go_first() -> None:
    info = DatasetInfo("mine", 300, 32, 3, 1, class_names=("only",))
    found = propose(info, "/x", None)
    config = complete(found.preset, found.fields, found.recipes, {"network": {"config": "D"}, "batch_size": 32})
    assert (config.network.label_dim, config.network.config, config.batch_size) == (0, "D", 32)
    assert config.lr_decay_iterations is None, "the letter brings its hyperparameters"


def test_the_part_held_out() -> None:
    def of(count: int, share: float | None = None) -> int:
        return held_out_pictures(DatasetInfo("x", count, 8, 1, 0), share)

    assert [of(1), of(2), of(5), of(200), of(9_000), of(1_281_167)] == [0, 1, 1, 20, 900, 1000]
    assert [of(200, 0), of(200, 0.5), of(200, 0.001), of(50_000, 0.2)] == [0, 100, 1, 10_000]


def test_a_preset_keeps_what_the_data_do_not_say() -> None:
    info = DatasetInfo("mine", 5_000, 32, 3, 7)
    found = fitted("edm2-img64-s-uncond", info, "/x", None)
    config = complete(found.preset, found.fields, found.recipes, {})
    assert (config.network.img_resolution, config.network.label_dim) == (32, 0)
    assert (config.preset, config.network.model_channels, config.total_images) == ("edm2-img64-s-uncond", 192, 2**30)


def test_names_of_datasets() -> None:
    names = [dataset_name(path) for path in ("/a/photos.zip", "/a/b/", "s3://bucket/x/cats.zip", "/", "/d/digits.zip")]
    assert names == ["photos", "b", "cats", "pictures", "digits-pictures"]
