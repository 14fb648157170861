"""A stand-in for the program that published EDM2's networks: files of the documented layout, and what they compute.

Written from the description of the file format alone. Classes are pickled by names that exist only while a file is
written; shapes follow the paper's topology without phema's help, and so does the network as a function.
"""

from __future__ import annotations

import math
import pickle
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ARGUMENTS: dict[str, Any] = {
    "img_resolution": 8,
    "img_channels": 2,
    "label_dim": 3,
    "model_channels": 16,
    "channel_mult": [1, 2],
    "num_blocks": 2,
    "attn_resolutions": [4],
    "channels_per_head": 8,
    "label_balance": 0.4,
    "concat_balance": 0.45,
    "res_balance": 0.35,
    "attn_balance": 0.25,
    "clip_act": 2.0,
    "sigma_data": 0.6,
    "logvar_channels": 12,
    "dropout": 0.1,
    "use_fp16": True,
}
"""Every argument away from its default, four heads of attention, and activations that are clipped."""

SOURCE = "raise SystemExit('this source must not run')\n" * 20


class EasyDict(dict[str, Any]):
    """dnnlib.util.EasyDict"""


def _reconstruct_persistent_obj(meta: dict[str, Any]) -> Any:
    raise AssertionError("nobody reads files through this")


class _Persistent(nn.Module):
    """An object of the authors' own class, pickled as `_reconstruct_persistent_obj` of one dict."""

    def __init__(self, class_name: str, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self._class_name, self._init_args, self._init_kwargs = class_name, args, EasyDict(kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        meta = {
            "type": "class",
            "version": 6,
            "module_src": SOURCE,
            "class_name": self._class_name,
            "state": {key: value for key, value in vars(self).items() if key != "_class_name"},
        }
        return _reconstruct_persistent_obj, (meta,)


def _half(generator: torch.Generator, *shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=generator).half(), requires_grad=False)


def _conv(generator: torch.Generator, *shape: int) -> _Persistent:
    conv = _Persistent("MPConv")
    conv.weight = _half(generator, *shape)
    return conv


def _fourier(generator: torch.Generator, channels: int) -> _Persistent:
    fourier = _Persistent("MPFourier")
    fourier.register_buffer("freqs", (2 * math.pi * torch.randn([channels], generator=generator)).half())
    fourier.register_buffer("phases", (2 * math.pi * torch.rand([channels], generator=generator)).half())
    return fourier


def _block(g: torch.Generator, emb: int, inputs: int, outputs: int, *, decoder: bool, attention: bool) -> _Persistent:
    block = _Persistent("Block", inputs, outputs, emb)
    block.emb_gain = _half(g)
    block.conv_res0 = _conv(g, outputs, inputs if decoder else outputs, 3, 3)
    block.emb_linear = _conv(g, outputs, emb)
    block.conv_res1 = _conv(g, outputs, outputs, 3, 3)
    block.conv_skip = _conv(g, outputs, inputs, 1, 1) if inputs != outputs else None
    block.attn_qkv = _conv(g, 3 * outputs, outputs, 1, 1) if attention else None
    block.attn_proj = _conv(g, outputs, outputs, 1, 1) if attention else None
    return block


def network(seed: int = 0, **arguments: Any) -> nn.Module:
    """The object under `ema`: a tree of random float16 tensors in the published nesting."""
    a = {**ARGUMENTS, **arguments}
    g = torch.Generator().manual_seed(seed)
    widths = [a["model_channels"] * multiple for multiple in a["channel_mult"]]
    emb = max(widths)
    unet = _Persistent("UNet")
    unet.out_gain = _half(g)
    unet.emb_fourier = _fourier(g, widths[0])
    unet.emb_noise = _conv(g, emb, widths[0])
    unet.emb_label = _conv(g, emb, a["label_dim"]) if a["label_dim"] else None
    resolution, width = a["img_resolution"], widths[0]
    unet.enc, skips = nn.ModuleDict(), [width]
    unet.enc[f"{resolution}x{resolution}_conv"] = _conv(g, width, a["img_channels"] + 1, 3, 3)
    for level, channels in enumerate(widths):
        size = resolution >> level
        if level:
            unet.enc[f"{size}x{size}_down"] = _block(g, emb, width, width, decoder=False, attention=False)
            skips.append(width)
        for i in range(a["num_blocks"]):
            attention = size in a["attn_resolutions"]
            unet.enc[f"{size}x{size}_block{i}"] = _block(g, emb, width, channels, decoder=False, attention=attention)
            width = channels
            skips.append(width)
    unet.dec = nn.ModuleDict()
    for level, channels in reversed(list(enumerate(widths))):
        size = resolution >> level
        for name in ["in0", "in1"] if level == len(widths) - 1 else ["up"]:
            unet.dec[f"{size}x{size}_{name}"] = _block(g, emb, width, width, decoder=True, attention=name == "in0")
        for i in range(a["num_blocks"] + 1):
            attention = size in a["attn_resolutions"]
            block = _block(g, emb, width + skips.pop(), channels, decoder=True, attention=attention)
            unet.dec[f"{size}x{size}_block{i}"] = block
            width = channels
    unet.out_conv = _conv(g, a["img_channels"], width, 3, 3)
    precond = _Persistent("Precond", **a)
    precond.unet = unet
    precond.logvar_fourier = _fourier(g, a["logvar_channels"])
    precond.logvar_linear = _conv(g, 1, a["logvar_channels"])
    return precond


def published(ema: Any, **more: Any) -> bytes:
    """A whole file: the dict with `ema` and what stands beside it."""
    encoder = _Persistent("StandardRGBEncoder")
    encoder.raw_mean = torch.zeros(3).numpy()
    data = EasyDict(class_name="training.dataset.ImageFolderDataset", path="/data/img.zip", shift=torch.ones(2).numpy())
    top = EasyDict(ema=ema, encoder=encoder, dataset_kwargs=data, loss_fn=_Persistent("EDM2Loss"), **more)
    return dump(top)


def dump(value: Any) -> bytes:
    with _foreign_modules():
        return pickle.dumps(value, protocol=4)


@contextmanager
def _foreign_modules() -> Iterator[None]:
    homes = {EasyDict: "dnnlib.util", _reconstruct_persistent_obj: "torch_utils.persistence"}
    before = {thing: thing.__module__ for thing in homes}
    modules = ["dnnlib", "dnnlib.util", "torch_utils", "torch_utils.persistence"]
    assert not set(modules) & set(sys.modules)
    try:
        for name in modules:
            sys.modules[name] = ModuleType(name)
        for thing, home in homes.items():
            thing.__module__ = home
            setattr(sys.modules[home], thing.__name__, thing)
        yield
    finally:
        for thing, home in before.items():
            thing.__module__ = home
        for name in modules:
            del sys.modules[name]


def write_run(folder: Path, kimgs: list[int], sigma_rels: list[float], **arguments: Any) -> dict[str, nn.Module]:
    """A directory as people have it; the networks by file name."""
    networks = {}
    for seed, (kimg, sigma_rel) in enumerate((k, s) for k in kimgs for s in sigma_rels):
        name = f"network-snapshot-{kimg:07d}-{sigma_rel:.3f}.pkl"
        networks[name] = network(seed, **arguments)
        (folder / name).write_bytes(published(networks[name]))
    return networks


def reference(
    weights: Mapping[str, Tensor], a: Mapping[str, Any], x: Tensor, sigma: Tensor, labels: Tensor | None
) -> Tensor:
    """D(x; sigma, class) from the published names and conventions alone, in x's dtype, slow and plain."""
    w = {name: tensor.to(x.dtype) for name, tensor in weights.items()}
    s = sigma.to(x.dtype).reshape(-1, 1, 1, 1)
    data = a["sigma_data"]
    root = (s**2 + data**2).sqrt()
    noise = sigma.to(x.dtype).log() / 4

    def magnitude_one(t: Tensor, dims: tuple[int, ...]) -> Tensor:
        return t / (t.square().mean(dims, keepdim=True).sqrt() + 1e-4)

    def conv(t: Tensor, name: str, gain: Tensor | float = 1.0) -> Tensor:
        raw = w[f"{name}.weight"]
        weight = magnitude_one(raw, tuple(range(1, raw.ndim))) / math.sqrt(raw[0].numel()) * gain
        return t @ weight.T if raw.ndim == 2 else F.conv2d(t, weight, padding=raw.shape[-1] // 2)

    def silu(t: Tensor) -> Tensor:
        return t * torch.sigmoid(t) / 0.596

    def blend(main: Tensor, other: Tensor, t: float) -> Tensor:
        return ((1 - t) * main + t * other) / math.sqrt((1 - t) ** 2 + t**2)

    def attention(t: Tensor, name: str) -> Tensor:
        n, channels, rows, columns = t.shape
        each = a["channels_per_head"]
        qkv = conv(t, f"{name}.attn_qkv").reshape(n, 3 * channels, rows * columns)
        heads = []
        for head in range(channels // each):
            own = qkv[:, 3 * each * head : 3 * each * (head + 1)]
            q, k, v = (magnitude_one(own[:, part::3], (1,)) for part in range(3))
            score = torch.softmax(torch.einsum("ncq,nck->nqk", q, k) / math.sqrt(each), dim=2)
            heads.append(torch.einsum("nqk,nck->ncq", score, v))
        return conv(torch.cat(heads, dim=1).reshape(t.shape), f"{name}.attn_proj")

    def block(t: Tensor, name: str, encoder: bool) -> Tensor:
        if name.endswith("_down"):
            t = (t[..., ::2, ::2] + t[..., 1::2, ::2] + t[..., ::2, 1::2] + t[..., 1::2, 1::2]) / 4
        if name.endswith("_up"):
            t = t.repeat_interleave(2, 2).repeat_interleave(2, 3)
        skip = f"{name}.conv_skip.weight" in w
        if encoder:
            t = magnitude_one(conv(t, f"{name}.conv_skip") if skip else t, (1,))
        branch = conv(silu(t), f"{name}.conv_res0")
        scale = conv(embedding, f"{name}.emb_linear", w[f"{name}.emb_gain"]) + 1
        branch = conv(silu(branch * scale[:, :, None, None]), f"{name}.conv_res1")
        if skip and not encoder:
            t = conv(t, f"{name}.conv_skip")
        t = blend(t, branch, a["res_balance"])
        if f"{name}.attn_qkv.weight" in w:
            t = blend(t, attention(t, name), a["attn_balance"])
        return t if a["clip_act"] is None else t.clip(-a["clip_act"], a["clip_act"])

    def features(name: str) -> Tensor:
        return math.sqrt(2) * torch.cos(noise[:, None] * w[f"{name}.freqs"] + w[f"{name}.phases"])

    embedding = conv(features("unet.emb_fourier"), "unet.emb_noise")
    if a["label_dim"]:
        one_hot = torch.zeros(len(x), a["label_dim"], dtype=x.dtype) if labels is None else labels.to(x.dtype)
        embedding = blend(embedding, conv(one_hot * math.sqrt(a["label_dim"]), "unet.emb_label"), a["label_balance"])
    embedding = silu(embedding)

    encoder = list(dict.fromkeys(name.split(".")[2] for name in w if name.startswith("unet.enc.")))
    decoder = list(dict.fromkeys(name.split(".")[2] for name in w if name.startswith("unet.dec.")))
    t = torch.cat([x / root, torch.ones_like(x[:, :1])], dim=1)
    skips = []
    for name in encoder:
        path = f"unet.enc.{name}"
        t = conv(t, path) if name.endswith("_conv") else block(t, path, encoder=True)
        skips.append(t)
    for name in decoder:
        if "block" in name:
            other, balance = skips.pop(), a["concat_balance"]
            c = math.sqrt((t.shape[1] + other.shape[1]) / ((1 - balance) ** 2 + balance**2))
            main_share, other_share = c * (1 - balance) / math.sqrt(t.shape[1]), c * balance / math.sqrt(other.shape[1])
            t = torch.cat([t * main_share, other * other_share], dim=1)
        t = block(t, f"unet.dec.{name}", encoder=False)
    output = conv(t, "unet.out_conv", w["unet.out_gain"])
    return data**2 / root**2 * x + s * data / root * output


def log_variance(weights: Mapping[str, Tensor], sigma: Tensor) -> Tensor:
    """u(sigma) from the published names."""
    w = {name: tensor.to(sigma.dtype) for name, tensor in weights.items()}
    features = math.sqrt(2) * torch.cos(
        sigma.log()[:, None] / 4 * w["logvar_fourier.freqs"] + w["logvar_fourier.phases"]
    )
    raw = w["logvar_linear.weight"]
    return (features @ (raw / (raw.square().mean().sqrt() + 1e-4) / math.sqrt(raw.numel())).T).flatten()
