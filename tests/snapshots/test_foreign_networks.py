"""Files of the documented layout become phema's networks, value for value and function for function."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from phema.shared.edm2.networks.building import build_denoiser
from phema.shared.snapshots.foreign.errors import ForeignFileRefused
from phema.shared.snapshots.foreign.published_pickles import parse_published
from phema.shared.snapshots.foreign.weights import ForeignWeights, convert_published, published_weights
from tests.snapshots import foreign_files as foreign


def imported(ema: torch.nn.Module) -> ForeignWeights:
    return convert_published(parse_published(memoryview(foreign.published(ema)), "net.pkl"), "net.pkl")


def test_every_value_arrives_exactly(tmp_path: Path) -> None:
    ema = foreign.network()
    (tmp_path / "net.pkl").write_bytes(foreign.published(ema))
    found = published_weights(tmp_path / "net.pkl")
    wanted = ema.state_dict()
    assert set(found.tensors) == set(wanted)
    assert set(found.buffers) == {name for name in wanted if name.endswith((".freqs", ".phases"))}
    for name, tensor in found.tensors.items():
        assert tensor.dtype == (torch.float32 if name in found.buffers else torch.float16)
        assert torch.equal(tensor, wanted[name].to(tensor.dtype)), name
    assert found.dtype == "float16"


@pytest.mark.parametrize(("label_dim", "clip_act"), [(3, 2.0), (0, 2.0), (3, None)])
def test_the_imported_network_is_the_documented_function(label_dim: int, clip_act: float | None) -> None:
    ema = foreign.network(label_dim=label_dim, clip_act=clip_act)
    found = imported(ema)
    assert found.network is not None
    denoiser = build_denoiser(found.network).double()
    denoiser.load_state_dict(dict(found.tensors), strict=True)
    x = 2 * torch.randn(4, 2, 8, 8, dtype=torch.float64)
    sigma = torch.tensor([0.02, 0.4, 1.7, 30.0], dtype=torch.float64)
    arguments = {**foreign.ARGUMENTS, "label_dim": label_dim, "clip_act": clip_act}
    weights = ema.state_dict()
    with torch.no_grad():
        for labels in (torch.eye(3, dtype=torch.float64)[[0, 2, 1, 2]] if label_dim else None, None):
            expected = foreign.reference(weights, arguments, x, sigma, labels)
            torch.testing.assert_close(denoiser.eval()(x, sigma, labels), expected, rtol=1e-9, atol=1e-9)
            skip = 0.36 / (sigma**2 + 0.36)
            assert (expected - skip[:, None, None, None] * x).abs().max() > 0.1, "the network contributes"
        torch.testing.assert_close(denoiser.logvar(sigma), foreign.log_variance(weights, sigma), rtol=1e-9, atol=1e-9)


def test_arguments_left_out_are_the_defaults() -> None:
    ema = foreign.network(
        img_resolution=16, channel_mult=[1, 2, 3, 4], num_blocks=3, attn_resolutions=[16, 8], logvar_channels=128,
        channels_per_head=16,
    )  # fmt: skip
    ema._init_args = (16, 2, 3)
    ema._init_kwargs = foreign.EasyDict(channels_per_head=16)
    found = imported(ema).network
    assert found is not None
    assert (found.model_channels, found.channel_mult, found.num_blocks) == (16, (1, 2, 3, 4), 3)
    assert (found.sigma_data, found.logvar_channels, found.res_balance, found.clip_act) == (0.5, 128, 0.3, 256.0)
    assert (found.img_resolution, found.img_channels, found.label_dim) == (16, 2, 3)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"channel_mult_noise": 4}, r"channel_mult_noise is 4; phema's networks have None or 1"),
        ({"channel_mult_emb": 1}, r"channel_mult_emb is 1; phema's networks have None or 2"),
        ({"resample_filter": [1, 3, 3, 1]}, r"resample_filter is \(1, 3, 3, 1\); phema's networks have \(1, 1\)"),
        ({"flavour": "x"}, "constructor argument 'flavour' is unknown"),
        ({"config": 1}, "constructor argument 'config' is unknown"),
        ({"num_blocks": 10**9}, "num_blocks is 1000000000; the limit is 32"),
        ({"num_blocks": 3}, "its tensor 'unet.dec.4x4_block2.conv_res0.weight' has the shape"),
        ({"attn_resolutions": [4, 8]}, "'unet.dec.8x8_block0.attn_proj.weight' is missing; .* has the shape"),
        ({"channels_per_head": 5}, "phema cannot build its network: channels_per_head 5 does not divide"),
        ({"sigma_data": "x"}, "sigma_data is 'x'; numbers are expected"),
        ({"sigma_data": None}, "sigma_data is None; numbers are expected"),
        ({"sigma_data": float("nan")}, "sigma_data NaN must be a finite number"),
        ({"dropout": [0.1] * 17}, "dropout is a tuple; numbers are expected"),
    ],
)
def test_a_network_that_phema_cannot_express_is_refused(arguments: dict[str, object], sentence: str) -> None:
    ema = foreign.network()
    ema._init_kwargs.update(arguments)
    with pytest.raises(ForeignFileRefused, match=sentence):
        imported(ema)


def test_arguments_that_say_what_phema_does_anyway_are_accepted() -> None:
    ema = foreign.network()
    ema._init_kwargs.update(channel_mult_noise=None, channel_mult_emb=2, resample_filter=[1, 1])
    assert imported(ema).network == imported(foreign.network()).network


def test_a_state_of_other_names_or_values_is_refused() -> None:
    ema = foreign.network()
    ema.unet.enc["8x8_conv"].bias = torch.nn.Parameter(torch.zeros(16).half())
    with pytest.raises(ForeignFileRefused, match=r"'unet.enc.8x8_conv.bias' has the shape .* has no such tensor"):
        imported(ema)
    ema = foreign.network()
    ema.unet.out_gain.data.fill_(float("inf"))
    with pytest.raises(ForeignFileRefused, match=r"'unet.out_gain' holds values that are not finite"):
        imported(ema)
    ema = foreign.network()
    ema.logvar_linear.weight = ema.unet.emb_noise.weight
    with pytest.raises(ForeignFileRefused, match=r"'logvar_linear.weight' has the shape"):
        imported(ema)
    ema = foreign.network()
    ema.unet.enc["8x8_block0"].conv_res1.weight = ema.unet.enc["8x8_block0"].conv_res0.weight
    with pytest.raises(ForeignFileRefused, match="share one storage"):
        imported(ema)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: foreign.dump({"model": 1}), "no dict with the key 'ema'"),
        (lambda: foreign.published(foreign._Persistent("EDMPrecond")), "'EDMPrecond', not the Precond"),
        (lambda: foreign.published(foreign.EasyDict(a=1)), "its 'ema' is a dict"),
        (lambda: foreign.published(foreign.network()) + b"x", "1 bytes follow the end"),
    ],
)
def test_other_pickles_are_refused(make: object, sentence: str) -> None:
    with pytest.raises(ForeignFileRefused, match=sentence):
        parse_published(memoryview(make()), "net.pkl")  # type: ignore[operator]


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.pkl").touch()
    with pytest.raises(ForeignFileRefused, match="it is empty"):
        published_weights(tmp_path / "net.pkl")
