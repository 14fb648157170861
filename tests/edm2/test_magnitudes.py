from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from phema.shared.edm2.networks.denoiser import Denoiser
from phema.shared.edm2.networks.layers import normalize_weights_
from phema.shared.edm2.training.magnitudes import ActivationMagnitudes, weight_magnitudes

KEYS = {
    f"{side}/{resolution}/{statistic}"
    for side in ("enc", "dec")
    for resolution in (4, 8)
    for statistic in ("max", "mean")
}
LAYERS = ("conv_res0", "conv_res1", "conv_skip", "emb_linear", "attn_qkv", "attn_proj")


def layers_of(denoiser: Denoiser, side: str, resolution: int) -> dict[str, nn.Module]:
    """By name: output resolution first in the block's name, input and output convolutions left out."""
    blocks = denoiser.unet.enc if side == "enc" else denoiser.unet.dec
    return {
        f"{block}.{layer}": getattr(module, layer)
        for block, module in blocks.items()
        if block.startswith(f"{resolution}x") and not block.endswith("conv")
        for layer in LAYERS
        if getattr(module, layer, None) is not None
    }


def test_weights_by_hand(make_tiny: Callable[..., Denoiser]) -> None:
    denoiser = make_tiny()
    with torch.no_grad():
        denoiser.unet.dec["8x8_block1"].conv_res1.weight[3] *= 17
    measured = weight_magnitudes(denoiser)
    assert set(measured) == KEYS
    for side in ("enc", "dec"):
        for resolution in (4, 8):
            features = np.concatenate(
                [
                    np.sqrt((layer.weight.detach().double().numpy().reshape(len(layer.weight), -1) ** 2).mean(axis=1))
                    for layer in layers_of(denoiser, side, resolution).values()
                ]
            )
            assert measured[f"{side}/{resolution}/max"] == pytest.approx(features.max(), rel=1e-5)
            assert measured[f"{side}/{resolution}/mean"] == pytest.approx(features.mean(), rel=1e-5)
    assert measured["dec/8/max"] > 12


def test_forced_normalisation_shows(make_tiny: Callable[..., Denoiser]) -> None:
    denoiser = make_tiny()
    normalize_weights_(denoiser)
    assert all(value == pytest.approx(1, abs=5e-4) for value in weight_magnitudes(denoiser).values())


@torch.no_grad()
def test_activations_by_hand(make_tiny: Callable[..., Denoiser]) -> None:
    """Over two batches, from outputs recorded here; what a gain does is included."""
    denoiser = make_tiny()
    outputs: dict[str, list[Tensor]] = {}
    wanted = {(s, r): layers_of(denoiser, s, r) for s in ("enc", "dec") for r in (4, 8)}
    for (side, _), layers in wanted.items():
        for name, layer in layers.items():
            layer.register_forward_hook(
                lambda m, i, output, key=f"{side}/{name}": outputs.setdefault(key, []).append(output)
            )
    with ActivationMagnitudes(denoiser) as collector:
        assert collector.magnitudes() == {}
        denoiser(torch.randn(5, 2, 8, 8), torch.full([5], 0.7), torch.eye(3)[[0, 1, 2, 0, 1]])
        denoiser(torch.randn(3, 2, 8, 8), torch.full([3], 2.0), torch.eye(3))
    measured = collector.magnitudes()
    assert set(measured) == KEYS
    for (side, resolution), layers in wanted.items():
        features = []
        for name in layers:
            h = torch.cat(outputs[f"{side}/{name}"]).double().transpose(0, 1).flatten(1)
            features.append(h.square().mean(dim=1).sqrt())
        values = torch.cat(features)
        assert measured[f"{side}/{resolution}/max"] == pytest.approx(float(values.max()), rel=1e-5)
        assert measured[f"{side}/{resolution}/mean"] == pytest.approx(float(values.mean()), rel=1e-5)


@torch.no_grad()
def test_collecting_ends_with_the_block(make_tiny: Callable[..., Denoiser]) -> None:
    denoiser, x = make_tiny(), torch.randn(1, 2, 8, 8)
    with ActivationMagnitudes(denoiser) as collector:
        denoiser(x, 1.0)
    before = collector.magnitudes()
    denoiser(100 * x, 0.1)
    assert collector.magnitudes() == before
    assert not any(layer._forward_hooks for layer in denoiser.modules())
