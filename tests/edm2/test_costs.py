"""Exact numbers of parameters, from the configuration and from the modules; flops as published."""

from __future__ import annotations

from collections import defaultdict
from functools import partial

import pytest
import torch

from phema.shared.edm2.networks.building import build_denoiser
from phema.shared.edm2.networks.config import NetworkConfig
from phema.shared.edm2.networks.costs import costs
from phema.shared.edm2.networks.denoiser import Denoiser
from phema.shared.edm2.networks.memory import activations_per_picture, training_bytes
from phema.shared.edm2.training.loss import denoising_loss
from phema.shared.recipes.presets import PRESETS, network_preset

# Parameters without the uncertainty head, its own, and Gflops (Karras et al. 2024, Figures 16-22 and Table 6).
LETTERS = {
    "edm2-img512-a": (295_902_724, 0, 110.4),
    "edm2-img512-b": (291_757_828, 129, 100.4),
    "edm2-img512-c": (277_816_512, 128, 100.3),
    "edm2-img512-d": (277_816_512, 128, 101.2),
    "edm2-img512-e": (277_816_512, 128, 101.2),
    "edm2-img512-f": (280_212_672, 128, 102.1),
    "edm2-img512-s": (280_212_709, 128, 102.2),
}
PUBLISHED = LETTERS | {
    "edm2-img512-xxs": (31_308_901, 128, 11.5),
    "edm2-img512-xs": (124_713_125, 128, 45.5),
    "edm2-img512-m": (497_807_653, 128, 180.8),
    "edm2-img512-l": (777_497_957, 128, 282.2),
    "edm2-img512-xl": (1_119_283_621, 128, 405.9),
    "edm2-img512-xxl": (1_523_164_645, 128, 552.1),
}
GFLOPS_64 = {"edm2-img64-s": 101.9, "edm2-img64-m": 180.8, "edm2-img64-l": 282.1, "edm2-img64-xl": 405.9}


def meta(config: NetworkConfig) -> Denoiser:
    with torch.device("meta"):
        return build_denoiser(config)


def counted(network: Denoiser) -> tuple[int, int]:
    """(all parameters, those of the uncertainty head)."""
    sizes = {name: p.numel() for name, p in network.named_parameters()}
    return sum(sizes.values()), sum(size for name, size in sizes.items() if name.startswith("logvar"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(name: str) -> None:
    parameters, head, gflops = PUBLISHED[name]
    found = costs(network_preset(name))
    assert found.num_parameters_without_uncertainty == parameters
    assert found.num_parameters == parameters + head
    assert found.gflops == pytest.approx(gflops, abs=0.7)
    assert counted(meta(network_preset(name))) == (parameters + head, head)


@pytest.mark.parametrize(("name", "gflops"), GFLOPS_64.items())
def test_published_flops_of_pixel_networks(name: str, gflops: float) -> None:
    assert costs(network_preset(name)).gflops == pytest.approx(gflops, abs=0.7)


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in PUBLISHED])
def test_counts_are_those_of_the_modules(name: str) -> None:
    config = network_preset(name)
    total, head = counted(meta(config))
    assert (costs(config).num_parameters, costs(config).num_parameters_without_uncertainty) == (total, total - head)


@pytest.mark.parametrize("letter", "ABCDEFG")
def test_counts_of_other_shapes(letter: str) -> None:
    config = NetworkConfig(
        config=letter, img_resolution=24, img_channels=2, model_channels=32, channel_mult=(1, 1, 3), num_blocks=2,
        attn_resolutions=(12,), channels_per_head=16,
    )  # fmt: skip
    total, head = counted(meta(config))
    assert (costs(config).num_parameters, costs(config).num_parameters_without_uncertainty) == (total, total - head)


def test_training_costs_as_published() -> None:
    """Three evaluations per picture: 0.66 zettaflops for S, 1.56 for XXL."""
    small, largest = costs(network_preset("edm2-img512-s")), costs(network_preset("edm2-img512-xxl"))
    assert small.training_zettaflops(2048 * 2**20) == pytest.approx(0.66, abs=0.005)
    assert largest.training_zettaflops(896 * 2**20) == pytest.approx(1.56, abs=0.005)


BREAKDOWN = {
    "A": (130_387_968, 94_556_160, 9_474_048, 27_426_816, 32_292_864, 1_505_280, 13_824, 134_020, 111_744, 0),
    "B": (130_387_968, 94_556_160, 9_474_048, 27_426_816, 28_164_096, 1_505_280, 13_824, 123_268, 106_368, 0),
    "C": (130_387_968, 94_556_160, 9_474_048, 13_713_408, 28_164_096, 1_505_280, 15_552, 0, 0, 0),
    "D": (130_387_968, 94_556_160, 9_474_048, 13_713_408, 28_164_096, 1_505_280, 15_552, 0, 0, 0),
    "E": (130_387_968, 94_556_160, 9_474_048, 13_713_408, 28_164_096, 1_505_280, 15_552, 0, 0, 0),
    "F": (133_373_952, 94_556_160, 9_474_048, 13_713_408, 28_164_096, 915_456, 15_552, 0, 0, 0),
    "G": (133_373_952, 94_556_160, 9_474_048, 13_713_408, 28_164_096, 915_456, 15_552, 0, 0, 37),
}
KINDS = (
    "conv_res0", "conv_res1", "conv_skip", "emb_linear", "attention", "embedding", "in and out", "biases",
    "group norms", "gains",
)  # fmt: skip


@pytest.mark.parametrize("letter", BREAKDOWN)
def test_parameters_by_kind(letter: str) -> None:
    found: dict[str, int] = defaultdict(int)
    name = "edm2-img512-s" if letter == "G" else f"edm2-img512-{letter.lower()}"
    for path, parameter in meta(network_preset(name)).unet.named_parameters():
        found[kind_of(path)] += parameter.numel()
    assert dict(found) == {kind: count for kind, count in zip(KINDS, BREAKDOWN[letter], strict=True) if count}


def kind_of(path: str) -> str:
    if "norm" in path:
        return "group norms"
    if path.endswith("bias"):
        return "biases"
    if path.endswith("gain"):
        return "gains"
    if path.startswith("emb_"):
        return "embedding"
    if "attn" in path:
        return "attention"
    layer = path.split(".")[-2]
    return layer if layer in KINDS else "in and out"


@pytest.mark.parametrize(
    ("resolution", "channels", "mult", "blocks"), [(8, 16, (1, 2), 1), (16, 32, (1, 2), 2), (32, 32, (1, 2, 3), 1)]
)
def test_activations_are_what_pytorch_keeps(resolution: int, channels: int, mult: tuple[int, ...], blocks: int) -> None:
    """Of three pictures more than of one: what remains does not depend on the pictures, such as normalised weights."""
    config = NetworkConfig(
        img_resolution=resolution,
        img_channels=3,
        model_channels=channels,
        channel_mult=mult,
        num_blocks=blocks,
        channels_per_head=16,
    )
    kept = (_kept_numbers(config, 3) - _kept_numbers(config, 1)) / 2
    assert activations_per_picture(config) == pytest.approx(kept, rel=0.05)
    bytes_of = partial(training_bytes, config, 1000, averages=2, half_precision=False)
    assert bytes_of(microbatch=3) - bytes_of(microbatch=1) == 8 * activations_per_picture(config)


def _kept_numbers(config: NetworkConfig, count: int) -> float:
    """Numbers in the tensors that autograd keeps for the loss of `count` pictures, each storage once."""
    denoiser = build_denoiser(config, precision="float32").train()
    own = {parameter.untyped_storage().data_ptr() for parameter in denoiser.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    images = torch.randn(count, 3, config.img_resolution, config.img_resolution)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        denoising_loss(denoiser, images, None, sigma=torch.ones(count), noise=torch.randn_like(images))
    return sum(storage.nbytes() for storage in kept.values()) / 4
