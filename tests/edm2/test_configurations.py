"""Configurations A to F: every block and function against a second implementation, and magnitudes at initialisation."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from phema.shared.edm2.networks.building import build_denoiser
from phema.shared.edm2.networks.config import NetworkConfig
from phema.shared.edm2.networks.configurations import CONFIGURATIONS
from phema.shared.edm2.networks.denoiser import Denoiser, DenoiserError
from phema.shared.edm2.networks.layers import MPConv, frozen_weights, normalize_weights_
from phema.shared.edm2.networks.topology import norm_groups, plan_unet
from phema.shared.edm2.training.loss import uncertainty_loss
from phema.shared.edm2.training.magnitudes import ActivationMagnitudes, weight_magnitudes
from phema.shared.recipes.presets import network_preset
from tests.edm2.conftest import TINY

LETTERS = "ABCDEFG"
Make = Callable[..., Denoiser]


def awake(letter: str, seed: int = 0, **overrides: Any) -> Denoiser:
    """A tiny network in float64 and evaluation mode whose every parameter matters, those that begin at 0 included."""
    torch.manual_seed(seed)
    network = build_denoiser(NetworkConfig.model_validate({**TINY, "config": letter, **overrides})).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return network


def inputs(seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    sigma = torch.tensor([0.1, 0.7, 4.0], dtype=torch.float64)
    noisy = torch.randn(3, 2, 8, 8, generator=g, dtype=torch.float64) * (0.5 + sigma[:, None, None, None])
    return noisy, sigma, torch.eye(3, dtype=torch.float64)


def rms(x: Tensor, *dims: int) -> Tensor:
    return x.square().mean(dim=dims, keepdim=True).sqrt() + 1e-4


def effective(layer: nn.Module) -> Tensor:
    """The weights a layer multiplies by."""
    weight = layer.get_parameter("weight")
    if not isinstance(layer, MPConv):
        return weight
    norm = weight.flatten(1).norm(dim=1) / math.sqrt(weight[0].numel()) + 1e-4
    return weight / norm.reshape(-1, *[1] * (weight.ndim - 1)) / math.sqrt(weight[0].numel())


def apply(layer: nn.Module, x: Tensor) -> Tensor:
    weight, bias = effective(layer), getattr(layer, "bias", None)
    return F.linear(x, weight, bias) if weight.ndim == 2 else F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)


@pytest.mark.parametrize("letter", LETTERS)
def test_every_letter_learns(letter: str) -> None:
    """A forward and a backward pass of the loss reach every parameter, the uncertainty head's too."""
    network = awake(letter).train()
    x, sigma, labels = inputs()
    out = uncertainty_loss(network, x, labels, p_mean=-0.4, p_std=1.0)
    assert out.loss.isfinite().all()
    out.loss.sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert network(x, sigma, labels).shape == x.shape
    assert network(x, 1.0).shape == x.shape


def test_what_each_letter_has() -> None:
    tiny = {letter: awake(letter) for letter in LETTERS}
    assert [letter for letter in LETTERS if tiny[letter].has_uncertainty] == list("BCDEFG")
    assert [letter for letter in LETTERS if tiny[letter].forces_weights] == list("EFG")
    biased = [letter for letter in LETTERS if any(n.endswith("bias") for n in tiny[letter].state_dict())]
    assert biased == ["A", "B"]
    with pytest.raises(DenoiserError, match="configuration A has no uncertainty head"):
        tiny["A"].logvar(torch.ones(1))


@pytest.mark.parametrize("letter", "ABCDEF")
def test_layers_go_by_the_names_of_configuration_g(letter: str) -> None:
    """So that a tensor of one configuration is found under the same name in another."""
    extra = ("bias", "norm_res0", "norm_res1", "attn_norm", "out_norm", "emb_hidden", "logvar")
    own = {name for name in awake(letter).state_dict() if not any(part in name for part in extra)}
    published = {name for name in awake("G").state_dict() if "gain" not in name and "logvar" not in name}
    if letter in "AB":
        published -= {"unet.emb_fourier.freqs", "unet.emb_fourier.phases"}
    assert own == published


def test_plain_loss_of_configuration_a() -> None:
    network = awake("A")
    x, _, labels = inputs()
    out = uncertainty_loss(network, x, labels, p_mean=-1.2, p_std=1.2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(out.loss.detach(), out.weighted_mse * x[0].numel())


@torch.no_grad()
@pytest.mark.parametrize("letter", "ABCDE")
def test_residual_block_written_out(letter: str) -> None:
    """The decoder block at 8 pixels, with an encoder's skip: norm, SiLU, convolution; norm, conditioning, SiLU, …"""
    network = awake(letter)
    block = network.unet.dec["8x8_block0"]
    plan = next(p for p in plan_unet(network.config).decoder if p.name == "8x8_block0")
    x = torch.randn(2, plan.in_channels, 8, 8, dtype=torch.float64)
    emb = torch.randn(2, 32, dtype=torch.float64)

    def norm(layer: nn.Module, h: Tensor) -> Tensor:
        groups = norm_groups(h.shape[1])
        if letter in "AB":
            return F.group_norm(h, groups, layer.get_parameter("weight"), layer.get_parameter("bias"), eps=1e-5)
        grouped = h.unflatten(1, (groups, -1))
        return (grouped / rms(grouped, 2, 3, 4)).flatten(1, 2)

    y = apply(block.conv_res0, F.silu(norm(block.norm_res0, x)))
    numbers = apply(block.emb_linear, emb)[:, :, None, None]
    y = norm(block.norm_res1, y)
    y = y * (1 + numbers[:, :16]) + numbers[:, 16:] if letter in "AB" else y * (1 + numbers)
    y = apply(block.conv_res1, F.silu(y))
    torch.testing.assert_close(block(x, emb), apply(block.conv_skip, x) + y, rtol=1e-9, atol=1e-10)


@torch.no_grad()
def test_resampling_of_a_is_on_both_paths_and_after_the_activation() -> None:
    network = awake("A")
    down, up = network.unet.enc["4x4_down"], network.unet.dec["8x8_up"]
    emb = torch.zeros(1, 32, dtype=torch.float64)
    for block, channels, size, resampled in (
        (down, 16, 8, lambda h: F.avg_pool2d(h, 2)),
        (up, 32, 4, lambda h: h.repeat_interleave(2, 2).repeat_interleave(2, 3)),
    ):
        x = torch.randn(1, channels, size, size, dtype=torch.float64)
        y = block.conv_res0(resampled(F.silu(block.norm_res0(x))))
        scale, shift = block.emb_linear(emb)[:, :, None, None].chunk(2, dim=1)
        y = block.conv_res1(F.silu(block.norm_res1(y) * (1 + scale) + shift))
        torch.testing.assert_close(block(x, emb), resampled(x) + y)


@torch.no_grad()
def test_blocks_of_f_written_out() -> None:
    network = awake("F")
    emb = torch.randn(2, 32, dtype=torch.float64)

    def branch(block: nn.Module, x: Tensor) -> Tensor:
        y = apply(block.conv_res0, F.silu(x)) * (1 + apply(block.emb_linear, emb)[:, :, None, None])
        return apply(block.conv_res1, F.silu(y))

    encoder = network.unet.enc["4x4_down"]
    x = torch.randn(2, 16, 8, 8, dtype=torch.float64)
    main = F.avg_pool2d(x, 2)
    main = main / rms(main, 1)
    torch.testing.assert_close(encoder(x, emb), main + branch(encoder, main), rtol=1e-9, atol=1e-10)

    decoder = network.unet.dec["8x8_block1"]
    x = torch.randn(2, 32, 8, 8, dtype=torch.float64)
    expected = apply(decoder.conv_skip, x) + branch(decoder, x)
    torch.testing.assert_close(decoder(x, emb), expected, rtol=1e-9, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("letter", "ABCDEF")
def test_attention_written_out(letter: str) -> None:
    """From the channel order head, channel, {q, k, v}; cosine attention from configuration C on."""
    block = awake(letter).unet.dec["4x4_in0"]
    x = torch.randn(2, 32, 4, 4, dtype=torch.float64)
    h = x
    if letter in "AB":
        h = F.group_norm(x, 8, block.attn_norm.weight, block.attn_norm.bias, eps=1e-5)
    qkv, out = apply(block.attn_qkv, h), torch.zeros(2, 32, 16, dtype=torch.float64)
    for head in range(2):
        first = head * 16 * 3
        q, k, v = (qkv[:, first + j : first + 48 : 3].flatten(2) for j in range(3))  # each [N, 16, HW]
        if letter not in "AB":
            q, k, v = (t / rms(t, 1) for t in (q, k, v))
        out[:, head * 16 : (head + 1) * 16] = v @ (q.transpose(1, 2) @ k / 4).softmax(dim=2).transpose(1, 2)
    expected = x + apply(block.attn_proj, out.reshape(2, 32, 4, 4))
    torch.testing.assert_close(block._finish(x), expected, rtol=1e-9, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("letter", "ABCDEF")
def test_embedding_written_out(letter: str) -> None:
    unet = awake(letter).unet
    c_noise, labels = torch.tensor([-0.5, 0.1, 0.3], dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    if letter in "AB":
        angles = c_noise[:, None] * 10000.0 ** (-torch.arange(8, dtype=torch.float64) / 8)
        features = torch.cat([angles.cos(), angles.sin()], dim=1)
    else:
        features = (c_noise[:, None] * unet.emb_fourier.freqs + unet.emb_fourier.phases).cos()
    emb = apply(unet.emb_noise, features)
    if letter != "F":
        emb = apply(unet.emb_hidden[0], F.silu(emb))
    emb = emb + F.linear(labels * (1 if letter in "AB" else math.sqrt(3)), effective(unet.emb_label))
    torch.testing.assert_close(unet._embed(c_noise, labels), F.silu(emb), rtol=1e-9, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("letter", "ABCDEF")
def test_output_written_out(letter: str) -> None:
    """Group norm and SiLU before the last convolution, up to E; a constant input channel from C on."""
    unet = awake(letter).unet
    seen: list[Tensor] = []
    unet.dec["8x8_block1"].register_forward_hook(lambda m, i, output: seen.append(output))
    unet.enc["8x8_conv"].register_forward_hook(lambda m, i, output: seen.append(i[0]))
    x, sigma, labels = inputs()
    f = unet(x, sigma.log() / 4, labels)
    entering, last = seen
    if letter in "AB":
        last = F.silu(F.group_norm(last, 4, unet.out_norm[0].weight, unet.out_norm[0].bias, eps=1e-5))
    elif letter != "F":
        grouped = last.unflatten(1, (4, -1))
        last = F.silu((grouped / rms(grouped, 2, 3, 4)).flatten(1, 2))
    torch.testing.assert_close(f, apply(unet.out_conv, last), rtol=1e-9, atol=1e-10)
    expected = x if letter in "AB" else torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
    torch.testing.assert_close(entering, expected)


@torch.no_grad()
@pytest.mark.parametrize("letter", "ABCDEF")
def test_only_d_and_later_clip(letter: str) -> None:
    network = awake(letter)
    largest: list[float] = []
    for block in network.unet.dec.values():
        block.register_forward_hook(lambda m, i, output: largest.append(float(output.abs().max())))
    for layer in (network.unet.dec["4x4_in0"].conv_res1, network.unet.dec["8x8_block0"].conv_res1):
        layer.forward = lambda x: torch.full_like(x[:, :1], 1e5)
    network(*inputs())
    assert (max(largest) <= 256) == (letter in "DEF")


def test_dropout_acts_in_training_only() -> None:
    for letter in LETTERS:
        network, (x, sigma, labels) = awake(letter, dropout=0.5), inputs()
        assert torch.equal(network(x, sigma, labels), network(x, sigma, labels))
        network.train()
        assert not torch.equal(network(x, sigma, labels), network(x, sigma, labels))


@torch.no_grad()
def test_initial_weights() -> None:
    """EDM's uniform, zero and standard normal layers in A and B; uniform in C; standard normal from D on."""
    torch.manual_seed(0)
    fields = {**TINY, "model_channels": 64, "label_dim": 50}
    for letter in LETTERS:
        unet = build_denoiser(NetworkConfig.model_validate({**fields, "config": letter})).unet
        block = unet.dec["4x4_in0"]
        spread = {
            name: (float(layer.weight.detach().std()), float(layer.weight.detach().abs().max()))
            for name, layer in {
                "conv": block.conv_res0, "closing": block.conv_res1, "proj": block.attn_proj, "label": unet.emb_label,
                "out": unet.out_conv,
            }.items()
        }  # fmt: skip
        if letter in "ABC":
            bound = 1 / math.sqrt(9 * 128)
            assert spread["conv"] == (pytest.approx(bound / math.sqrt(3), rel=0.02), pytest.approx(bound, rel=0.01))
            assert float(unet.emb_noise.weight.abs().max()) == pytest.approx(1 / 8, rel=0.01)
        if letter in "AB":
            assert spread["closing"] == spread["proj"] == spread["out"] == (0, 0)
            assert not block.conv_res1.bias.any()
            assert spread["label"][0] == pytest.approx(1, rel=0.05)
            assert unet.emb_label.bias is None
            assert float(block.conv_res0.bias.abs().max()) == pytest.approx(1 / math.sqrt(9 * 128), rel=0.05)
            assert torch.equal(block.norm_res0.weight, torch.ones(128))
            assert not block.norm_res0.bias.any()
        elif letter == "C":
            assert spread["closing"] == pytest.approx(spread["conv"], rel=0.02)
            assert spread["label"][1] == pytest.approx(1 / math.sqrt(50), rel=0.02)
        else:
            assert all(deviation == pytest.approx(1, rel=0.05) for deviation, _ in spread.values()), spread


@torch.no_grad()
@pytest.mark.parametrize("letter", "ABG")
def test_the_network_is_its_skip_path_at_initialisation(letter: str) -> None:
    torch.manual_seed(0)
    network = build_denoiser(NetworkConfig.model_validate({**TINY, "config": letter}))
    x, sigma = torch.randn(3, 2, 8, 8), torch.tensor([0.1, 1.0, 5.0])
    c_skip = 0.25 / (sigma**2 + 0.25)
    torch.testing.assert_close(network(x, sigma, torch.eye(3)), c_skip[:, None, None, None] * x, rtol=1e-6, atol=1e-7)


def initial_error(letter: str, *, resolution: int, count: int, seeds: range, **network_fields: Any) -> float:
    """lambda times the mean squared error of fresh networks with 64 channels, as the first step of training sees it."""
    total = 0.0
    classes = 1000
    for seed in seeds:
        torch.manual_seed(seed)
        preset = "edm2-img512-s" if letter == "G" else f"edm2-img512-{letter.lower()}"
        fields = network_preset(preset).model_dump() | {"model_channels": 64, "img_resolution": resolution}
        fields |= network_fields
        network = build_denoiser(NetworkConfig.model_validate(fields))
        images = 0.5 * torch.randn(count, 4, resolution, resolution)
        labels = torch.eye(classes)[torch.randint(classes, [count])]
        p_mean, p_std = (-1.2, 1.2) if letter == "A" else (-0.4, 1.0)
        total += float(uncertainty_loss(network, images, labels, p_mean=p_mean, p_std=p_std).weighted_mse.mean())
    return total / len(seeds)


@torch.no_grad()
@pytest.mark.parametrize("letter", "ABG")
def test_initial_error_of_a_network_that_outputs_zero(letter: str) -> None:
    error = initial_error(letter, resolution=16, count=96, seeds=range(1), channel_mult=(1,), num_blocks=1)
    assert error == pytest.approx(1.0, abs=0.01)


@torch.no_grad()
@pytest.mark.parametrize(("letter", "expected"), [("C", 1.10), ("D", 1.3), ("E", 1.45), ("F", 4.7)])
def test_initial_error_of_a_network_without_gain(letter: str, expected: float) -> None:
    """Networks scatter, F's by a third: the mean over several."""
    seeds = range(8 if letter == "F" else 2)
    assert initial_error(letter, resolution=32, count=1, seeds=seeds) == pytest.approx(expected, rel=0.15)


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize(
    ("letter", "expected"), [("A", 1), ("B", 1), ("C", 1.10), ("D", 1.3), ("E", 1.45), ("F", 4.7), ("G", 1)]
)
def test_initial_error_at_full_resolution(letter: str, expected: float) -> None:
    tolerance = 0.01 if expected == 1 else 0.15
    count, seeds = (16, range(1)) if expected == 1 else (1, range(24 if letter == "F" else 4))
    assert initial_error(letter, resolution=64, count=count, seeds=seeds) == pytest.approx(expected, rel=tolerance)


@torch.no_grad()
@pytest.mark.parametrize(
    ("letter", "encoder", "decoder"),
    [
        ("A", (0.01, 0.6), (0.01, 0.6)),
        ("C", (0.5, 1.4), (0.5, 1.4)),
        ("E", (1, 3.5), (1, 3.5)),
        ("F", (1, 1.5), (1.5, 3)),
    ],
)
def test_magnitudes_at_initialisation(letter: str, encoder: tuple[float, float], decoder: tuple[float, float]) -> None:
    """The mean magnitude of block outputs lies where the configuration puts it; G's are in test_unet."""
    torch.manual_seed(0)
    preset = network_preset(f"edm2-img512-{letter.lower()}")
    fields = preset.model_dump() | {"model_channels": 64, "img_resolution": 32, "label_dim": 0}
    network = build_denoiser(NetworkConfig.model_validate(fields)).eval()
    found: dict[str, list[float]] = {"enc": [], "dec": []}
    for side, magnitudes in found.items():
        for name, block in getattr(network.unet, side).items():
            if not name.endswith("conv"):
                block.register_forward_hook(lambda m, i, o, add=magnitudes.append: add(float(o.square().mean().sqrt())))
    network(torch.randn(2, 4, 32, 32), torch.tensor([0.5, 1.0]))
    for (low, high), magnitudes in zip((encoder, decoder), found.values(), strict=True):
        assert low <= sum(magnitudes) / len(magnitudes) <= high, found


@pytest.mark.parametrize("letter", "DEF")
def test_weight_normalisation_covers_every_layer(letter: str) -> None:
    """No layer's output depends on the length of its weights, and forcing them changes nothing."""
    network, x = awake(letter), inputs()
    matrices = [p for p in network.parameters() if p.ndim >= 2]
    assert len(matrices) == sum(isinstance(layer, MPConv) for layer in network.modules())
    before, u = network(*x), network.logvar(x[1])
    with torch.no_grad():
        for weight in matrices:
            weight.mul_(5)
    torch.testing.assert_close(network(*x), before, rtol=1e-2, atol=1e-2)
    normalize_weights_(network)
    torch.testing.assert_close(network(*x), before, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(network.logvar(x[1]), u, rtol=1e-2, atol=1e-2)
    assert all(value == pytest.approx(1, abs=1e-3) for value in weight_magnitudes(network).values())
    with torch.no_grad(), frozen_weights(network):
        torch.testing.assert_close(network(*x), before, rtol=1e-2, atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("letter", "ABCDEF")
def test_magnitudes_are_measured_after_the_bias(letter: str) -> None:
    network = awake(letter).float()
    block = network.unet.enc["8x8_block0"]
    bias = getattr(block.conv_res1, "bias", None)
    if bias is not None:
        bias[3] = 1000
    with ActivationMagnitudes(network) as collected:
        network(*(t.float() for t in inputs()))
    measured = collected.magnitudes()
    assert set(measured) == set(weight_magnitudes(network)) == {
        f"{side}/{r}/{statistic}" for side in ("enc", "dec") for r in (4, 8) for statistic in ("max", "mean")
    }  # fmt: skip
    assert (measured["enc/8/max"] > 900) == (letter in "AB")


@pytest.mark.parametrize("letter", "ABCDEF")
def test_reduced_precision_stays_inside_the_network(letter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device: layers in half, embedding and uncertainty in full; attention in full in A and B alone."""
    attention: list[torch.dtype] = []
    attend = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda q, k, v: (attention.append(q.dtype), attend(q, k, v))[1]
    )
    with torch.device("meta"):
        network = build_denoiser(NetworkConfig.model_validate({**TINY, "config": letter}), precision="float16")
    dtypes: dict[str, set[torch.dtype]] = defaultdict(set)
    for name, module in network.named_modules():
        if getattr(module, "weight", None) is not None:
            module.register_forward_hook(lambda m, i, o, name=name: dtypes[name].update({i[0].dtype, o.dtype}))
    sigma = torch.empty(2, device="meta")
    x, labels = torch.empty(2, 2, 8, 8, device="meta"), torch.empty(2, 3, device="meta")
    assert network(x, sigma, labels).dtype == torch.float32
    half = torch.float16
    for name, found in dtypes.items():
        assert found == {torch.float32 if "emb_" in name else half}, name
    assert set(attention) == {torch.float32 if letter in "AB" else half}
    assert {p.dtype for p in network.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    "overrides",
    [
        {"img_resolution": 12, "img_channels": 1, "channel_mult": (2,), "attn_resolutions": ()},
        {"img_resolution": 32, "channel_mult": (1, 1, 2), "num_blocks": 2, "attn_resolutions": (32, 8)},
        {"label_dim": 0, "channels_per_head": 8, "model_channels": 24},
    ],
)
def test_any_shape(overrides: dict[str, Any]) -> None:
    for letter in CONFIGURATIONS:
        network = awake(letter, **overrides)
        size = network.config.img_resolution
        x = torch.randn(2, network.config.img_channels, size, size, dtype=torch.float64)
        assert network(x, 1.0).shape == x.shape


def test_groups_are_edms_where_those_divide() -> None:
    assert [norm_groups(c) for c in (16, 48, 128, 192, 1344, 1792)] == [4, 12, 32, 32, 32, 32]
    assert [norm_groups(c) for c in (2, 18, 130)] == [1, 3, 26]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"config": "F", "res_balance": 0.4}, "res_balance 0.4 has no meaning in configuration F, which adds and"),
        ({"config": "A", "concat_balance": 0.4}, "leave it at 0.5 or use configuration G or a later one"),
        ({"config": "C", "clip_act": 100}, "clip_act 100 has no meaning in configuration C, which does not clip"),
        ({"config": "C", "clip_act": None}, "clip_act none has no meaning in configuration C"),
        ({"config": "A", "logvar_channels": 64}, "logvar_channels 64 has no meaning in configuration A"),
        ({"config": "B", "model_channels": 17, "channels_per_head": 17}, "model_channels 17 must be even"),
    ],
)
def test_fields_without_meaning_are_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        NetworkConfig.model_validate({**TINY, **fields})


def test_fields_with_meaning_are_not() -> None:
    for fields in (
        {"config": "D", "clip_act": 100},
        {"config": "D", "clip_act": None},
        {"config": "B", "logvar_channels": 64},
        {"res_balance": 0.4},
    ):
        NetworkConfig.model_validate({**TINY, **fields})
    odd = {"config": "C", "model_channels": 17, "channels_per_head": 17}
    NetworkConfig.model_validate({**TINY, **odd})
