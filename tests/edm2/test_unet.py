"""The network of configuration G: shape, size, magnitudes and function at initialisation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from phema.shared.edm2.networks.building import build_denoiser
from phema.shared.edm2.networks.config import NetworkConfig
from phema.shared.edm2.networks.denoiser import Denoiser, DenoiserError
from phema.shared.edm2.networks.layers import MPConv
from phema.shared.edm2.networks.topology import plan_unet
from phema.shared.recipes.presets import network_preset


def meta(config: NetworkConfig, **options: Any) -> Denoiser:
    with torch.device("meta"):
        return build_denoiser(config, **options)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", ["xs", "s", "m", "l", "xl"])
def test_pixel_presets_differ_in_their_channels_only(name: str) -> None:
    """RGB instead of four latent channels: one input and one output filter bank less."""
    latent, pixels = network_preset(f"edm2-img512-{name}"), network_preset(f"edm2-img64-{name}")
    assert count(meta(latent)) - count(meta(pixels)) == 2 * 9 * latent.model_channels


def test_unconditional_network_lacks_the_class_embedding() -> None:
    config = network_preset("edm2-img64-xs")
    unconditional = config.model_copy(update={"label_dim": 0})
    assert count(meta(config)) - count(meta(unconditional)) == 1000 * 4 * 128
    assert round(count(meta(unconditional)) / 1e6, 1) == 124.2


def test_topology_of_the_paper() -> None:
    topology = plan_unet(network_preset("edm2-img512-s"))
    assert len(topology.encoder) == 15
    assert len(topology.decoder) == 21
    widths = [(b.in_channels - b.skip_channels, b.skip_channels) for b in topology.decoder if b.skip_channels]
    assert widths == [
        *[(768, 768)] * 3, (768, 576),
        (768, 576), (576, 576), (576, 576), (576, 384),
        (576, 384), (384, 384), (384, 384), (384, 192),
        (384, 192), *[(192, 192)] * 3,
    ]  # fmt: skip
    assert [b.name for b in topology.encoder if b.in_channels != b.out_channels] == [
        "32x32_block0", "16x16_block0", "8x8_block0",
    ]  # fmt: skip
    attending = [b.name for b in (*topology.encoder, *topology.decoder) if b.attention]
    assert attending == [
        *[f"{r}x{r}_block{i}" for r in (16, 8) for i in range(3)],
        "8x8_in0",
        *[f"{r}x{r}_block{i}" for r in (8, 16) for i in range(4)],
    ]
    assert topology.embedding_channels == 768
    assert topology.noise_channels == 192
    assert all(topology.heads(b) == b.out_channels // 64 for b in topology.encoder if b.attention)


def test_state_names_are_those_of_published_networks() -> None:
    state = meta(network_preset("edm2-img512-xs")).state_dict()
    block = {"emb_gain", "conv_res0.weight", "emb_linear.weight", "conv_res1.weight"}
    attention = {"attn_qkv.weight", "attn_proj.weight"}
    expected = {"unet.out_gain", "unet.emb_fourier.freqs", "unet.emb_fourier.phases", "unet.emb_noise.weight"}
    expected |= {"unet.emb_label.weight", "unet.enc.64x64_conv.weight", "unet.out_conv.weight"}
    expected |= {"logvar_fourier.freqs", "logvar_fourier.phases", "logvar_linear.weight"}
    for resolution in (64, 32, 16, 8):
        prefix = f"{resolution}x{resolution}"
        attends = attention if resolution <= 16 else set()
        for i in range(3):
            skip = {"conv_skip.weight"} if i == 0 and resolution < 64 else set()
            expected |= {f"unet.enc.{prefix}_block{i}.{name}" for name in block | attends | skip}
        for i in range(4):
            expected |= {f"unet.dec.{prefix}_block{i}.{name}" for name in block | attends | {"conv_skip.weight"}}
        if resolution < 64:
            expected |= {f"unet.enc.{prefix}_down.{name}" for name in block}
        if resolution > 8:
            expected |= {f"unet.dec.{prefix}_up.{name}" for name in block}
    expected |= {f"unet.dec.8x8_in0.{name}" for name in block | attention}
    expected |= {f"unet.dec.8x8_in1.{name}" for name in block}
    assert set(state) == expected
    assert state["unet.enc.64x64_conv.weight"].shape == (128, 5, 3, 3)
    assert state["unet.enc.16x16_block0.attn_qkv.weight"].shape == (3 * 384, 384, 1, 1)
    assert state["unet.emb_label.weight"].shape == (512, 1000)
    assert state["unet.out_gain"].shape == ()


@torch.no_grad()
def test_magnitudes_at_initialisation() -> None:
    """Every block's output, and the embedding's parts, keep unit magnitude on random data.

    The paper's topology with 64 channels at 64 x 64 x 4. Magnitudes are expectations over networks and data (Eq. 37);
    a single network's scatter by some 5 %.
    """
    mean_square: dict[str, float] = defaultdict(float)
    draws = 8

    def record(name: str) -> Callable[[nn.Module, Any, torch.Tensor], None]:
        def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            mean_square[name] += float(output.square().mean()) / draws

        return hook

    for seed in range(draws):
        torch.manual_seed(seed)
        denoiser = build_denoiser(network_preset("edm2-img512-xxs")).eval()
        unet = denoiser.unet
        watched = {**{f"enc/{k}": m for k, m in unet.enc.items()}, **{f"dec/{k}": m for k, m in unet.dec.items()}}
        watched |= {name: getattr(unet, name) for name in ("emb_fourier", "emb_noise", "emb_label")}
        for name, module in watched.items():
            module.register_forward_hook(record(name))
        sigma = torch.exp(torch.randn(1) - 0.4)
        noisy = 0.5 * torch.randn(1, 4, 64, 64) + sigma * torch.randn(1, 4, 64, 64)
        denoiser(noisy, sigma, torch.eye(1000)[torch.randint(1000, [1])])

    magnitudes = {name: value**0.5 for name, value in mean_square.items()}
    assert len(magnitudes) == 16 + 21 + 3
    assert min(magnitudes.values()) > 0.89, magnitudes
    assert max(magnitudes.values()) < 1.05, magnitudes


@torch.no_grad()
def test_network_is_its_skip_path_at_initialisation() -> None:
    xxs = build_denoiser(network_preset("edm2-img512-xxs"))
    x, sigma = torch.randn(2, 4, 64, 64), torch.tensor([0.1, 5.0])
    c_skip = 0.25 / (sigma**2 + 0.25)
    torch.testing.assert_close(xxs(x, sigma), c_skip[:, None, None, None] * x, rtol=1e-6, atol=1e-7)


@torch.no_grad()
def test_preconditioning(make_tiny: Callable[..., Denoiser]) -> None:
    """D, assembled here from F and the published coefficients."""
    denoiser = make_tiny().double().eval()
    x, sigma = torch.randn(4, 2, 8, 8).double(), torch.tensor([0.002, 0.5, 3.0, 80.0]).double()
    labels = torch.eye(3)[[0, 1, 2, 0]].double()
    s = sigma[:, None, None, None]
    f = denoiser.unet(x / (s**2 + 0.25).sqrt(), sigma.log() / 4, labels)
    expected = 0.25 / (s**2 + 0.25) * x + s * 0.5 / (s**2 + 0.25).sqrt() * f
    torch.testing.assert_close(denoiser(x, sigma, labels), expected, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_scalar_noise_level_stands_for_one_per_picture(make_tiny: Callable[..., Denoiser]) -> None:
    denoiser = make_tiny().double().eval()
    x, labels = torch.randn(3, 2, 8, 8).double(), torch.eye(3).double()
    expected = denoiser(x, torch.full([3], 0.7, dtype=torch.float64), labels)
    torch.testing.assert_close(denoiser(x, 0.7, labels), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        denoiser(x, torch.tensor(0.7, dtype=torch.float64), labels), expected, rtol=1e-12, atol=1e-12
    )
    torch.testing.assert_close(denoiser(x, 0.7), denoiser(x, 0.7, torch.zeros(3, 3)), rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_class_and_noise_level_matter_once_gains_are_learned(make_tiny: Callable[..., Denoiser]) -> None:
    x = torch.randn(1, 2, 8, 8)
    asleep = make_tiny(awake=False)
    with torch.no_grad():
        asleep.unet.out_gain.fill_(1.0)
    one, two = torch.eye(3)[:1], torch.eye(3)[1:2]
    assert torch.equal(asleep(x, 1.0, one), asleep(x, 1.0, two))
    awake = make_tiny().eval()
    assert not torch.allclose(awake(x, 1.0, one), awake(x, 1.0, two), atol=1e-3)
    f = [awake.unet(x, torch.tensor([c]), one) for c in (-1.0, 0.5)]
    assert not torch.allclose(f[0], f[1], atol=1e-3)


@torch.no_grad()
def test_attention_is_softmax_of_cosines(make_tiny: Callable[..., Denoiser]) -> None:
    """Written out from the channel order head, channel, {q, k, v}."""
    denoiser = make_tiny().double().eval()
    block = denoiser.unet.enc["4x4_block0"]
    x = torch.randn(2, 32, 4, 4).double()
    qkv = block.attn_qkv(x)
    out = torch.zeros(2, 32, 16).double()
    for head in range(2):
        first = head * 16 * 3
        q, k, v = (qkv[:, first + j : first + 48 : 3].flatten(2) for j in range(3))  # each [N, 16, HW]
        q, k, v = (t / (t.square().mean(dim=1, keepdim=True).sqrt() + 1e-4) for t in (q, k, v))
        weights = (q.transpose(1, 2) @ k / 4).softmax(dim=2)  # [N, query, key]
        out[:, head * 16 : (head + 1) * 16] = v @ weights.transpose(1, 2)
    expected = block.attn_proj(out.reshape(2, 32, 4, 4))
    torch.testing.assert_close(block._attend(x), expected, rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_activations_are_clipped(make_tiny: Callable[..., Denoiser]) -> None:
    denoiser = make_tiny(clip_act=0.5)
    seen: list[float] = []
    for block in (*list(denoiser.unet.enc.values())[1:], *denoiser.unet.dec.values()):
        block.register_forward_hook(lambda m, i, output: seen.append(float(output.abs().max())))
    denoiser(torch.randn(1, 2, 8, 8), 1.0)
    assert max(seen) == 0.5


@torch.no_grad()
def test_activations_are_not_clipped_without_a_limit(make_tiny: Callable[..., Denoiser]) -> None:
    clipped, free, wide = (make_tiny(clip_act=limit) for limit in (0.5, None, 1e9))
    for denoiser in (free, wide):
        denoiser.load_state_dict(clipped.state_dict())
    x = torch.randn(1, 2, 8, 8)
    assert torch.equal(free(x, 1.0), wide(x, 1.0))
    assert not torch.equal(free(x, 1.0), clipped(x, 1.0))


def test_dropout_acts_in_training_only(make_tiny: Callable[..., Denoiser]) -> None:
    denoiser, x = make_tiny(dropout=0.5), torch.randn(2, 2, 8, 8)
    assert not torch.equal(denoiser(x, 1.0), denoiser(x, 1.0))
    denoiser.eval()
    assert torch.equal(denoiser(x, 1.0), denoiser(x, 1.0))


def test_every_parameter_learns(make_tiny: Callable[..., Denoiser]) -> None:
    denoiser = make_tiny()
    denoiser(torch.randn(2, 2, 8, 8), 1.0, torch.eye(3)[:2]).square().sum().backward()
    silent = [name for name, p in denoiser.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == ["logvar_linear.weight"]


@pytest.mark.parametrize(
    "overrides",
    [
        {"img_resolution": 12, "img_channels": 1, "channel_mult": (2,), "attn_resolutions": ()},
        {"img_resolution": 32, "channel_mult": (1, 1, 2), "num_blocks": 2, "attn_resolutions": (32, 8)},
        {"label_dim": 0, "channels_per_head": 8},
    ],
)
def test_any_shape(make_tiny: Callable[..., Denoiser], overrides: dict[str, Any]) -> None:
    denoiser = make_tiny(**overrides)
    config = denoiser.config
    x = torch.randn(2, config.img_channels, config.img_resolution, config.img_resolution)
    assert denoiser(x, 1.0).shape == x.shape


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_reduced_precision_stays_inside_the_network(tiny_config: NetworkConfig, precision: str) -> None:
    """Shapes and dtypes alone, on the meta device: these precisions are for GPUs."""
    denoiser = meta(tiny_config, precision=precision)
    dtypes: dict[str, tuple[torch.dtype, torch.dtype]] = {}
    for name, module in denoiser.named_modules():
        if isinstance(module, MPConv):
            module.register_forward_hook(
                lambda m, inputs, output, name=name: dtypes.update({name: (inputs[0].dtype, output.dtype)})
            )
    x = torch.empty(2, 2, 8, 8, device="meta")
    sigma = torch.empty(2, device="meta")
    assert denoiser(x, sigma, torch.empty(2, 3, device="meta")).dtype == torch.float32
    assert denoiser.logvar(sigma).dtype == torch.float32
    half = getattr(torch, precision)
    for name, (taken, given) in dtypes.items():
        full = "emb_" in name or name == "logvar_linear"
        assert taken == given == (torch.float32 if full else half), name
    assert {p.dtype for p in denoiser.parameters()} == {torch.float32}


@pytest.mark.parametrize("shape", [(2, 2, 8, 9), (2, 1, 8, 8), (2, 8, 8)])
def test_wrong_picture(make_tiny: Callable[..., Denoiser], shape: tuple[int, ...]) -> None:
    with pytest.raises(DenoiserError, match=r"x has shape \(2, .*\); the network takes \(N, 2, 8, 8\)"):
        make_tiny()(torch.zeros(shape), 1.0)


def test_wrong_labels(make_tiny: Callable[..., Denoiser]) -> None:
    with pytest.raises(DenoiserError, match=r"class_labels has shape \(2, 4\); .* one-hot rows \(N, 3\)"):
        make_tiny()(torch.zeros(2, 2, 8, 8), 1.0, torch.zeros(2, 4))


def test_heads_must_fit_wherever_a_block_attends(tiny_config: NetworkConfig) -> None:
    fields = tiny_config.model_dump()
    with pytest.raises(ValidationError, match="channels_per_head 24 does not divide the 32 channels"):
        NetworkConfig.model_validate({**fields, "channels_per_head": 24})
    with pytest.raises(ValidationError, match="at resolution 4"):
        NetworkConfig.model_validate({**fields, "channels_per_head": 24, "attn_resolutions": ()})
