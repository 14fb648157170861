"""Inception-v3 and DINOv2 through the real loading code, on random weights in files of the published layout."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from phema.shared.datasets import Dataset, InMemory
from phema.shared.datasets.dataset_checks import DatasetInfo
from phema.shared.metrics.errors import ScoringError
from phema.shared.metrics.feature_extraction import FeatureExtractor, LoadRequest
from phema.shared.metrics.networks import dinov2_vit, inception_v3
from phema.shared.metrics.networks.pixels import to_rgb, to_uint8
from phema.shared.metrics.weights.published import PublishedWeights
from tests.datasets.photos import tiles
from tests.metrics.weight_layouts import dinov2_shapes, dinov2_weights, inception_weights

SMALL = PublishedWeights("dinov2", ("dinov2_vits14_pretrain.pth",), "http://127.0.0.1:9/dinov2_vits14_pretrain.pth")
WIDTH, DEPTH, HEADS = 384, 12, 6


def pictures(count: int, size: int) -> Tensor:
    """Parts of photographs as float32 [count, 3, size, size] in [-1, 1]."""
    pixels = np.stack(tiles(count, size)).transpose(0, 3, 1, 2)
    return torch.from_numpy(pixels / np.float32(127.5) - np.float32(1))


def request(path: Path) -> LoadRequest:
    none = InMemory(np.zeros((0, 3, 32, 32), np.float32), np.zeros(0, np.int64))
    return LoadRequest(Dataset(DatasetInfo("photos", 0, 32, 3, 0), none, none), None, path, "cpu")


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / inception_v3.WEIGHTS.files[0]
    torch.save(inception_weights(), path)
    return path


@pytest.fixture(scope="module")
def inception(inception_file: Path) -> FeatureExtractor:
    return inception_v3.load(request(inception_file.parent))


@pytest.fixture(scope="module")
def small_weights() -> dict[str, Tensor]:
    return dinov2_weights(WIDTH, DEPTH)


@pytest.fixture(scope="module")
def dino(small_weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> FeatureExtractor:
    """ViT-S/14: the same code and layout as ViT-L/14 at a fifteenth of the size."""
    path = tmp_path_factory.mktemp("weights") / SMALL.files[0]
    torch.save(small_weights, path)
    return dinov2_vit.load_architecture(request(path), "vit_small_patch14_dinov2", SMALL)


def test_pictures_are_rounded_as_in_a_file() -> None:
    every = torch.arange(256, dtype=torch.float32)
    assert torch.equal(to_uint8(every / 127.5 - 1), every.to(torch.uint8))
    near = torch.tensor([-1.2, -1.0, 0.49 / 127.5 - 1, 0.51 / 127.5 - 1, 254.6 / 127.5 - 1, 1.0, 3.0])
    assert to_uint8(near).tolist() == [0, 0, 0, 1, 255, 255, 255]
    assert to_rgb(torch.arange(4).reshape(1, 1, 2, 2)).tolist() == [[[[0, 1], [2, 3]]] * 3]


def test_inception_is_what_the_package_computes(inception: FeatureExtractor, inception_file: Path) -> None:
    """torch-fidelity's own class with its own loader, on the same file."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    theirs = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=str(inception_file))
    seen = pictures(4, 40)
    found = inception(seen)
    assert (found.shape, found.dtype) == ((4, 2048), torch.float32)
    with torch.inference_mode():
        expected = theirs(to_uint8(seen))[0]
    assert torch.equal(found, expected)
    assert float(found.std(dim=0).mean()) > 0.01
    assert inception.identity.resize == "299x299 bilinear, TensorFlow 1 convention"
    assert (inception.identity.antialias, inception.identity.uint8, inception.identity.num_features) == (
        False,
        True,
        2048,
    )


@pytest.mark.parametrize("size", [32, 300])
def test_inception_sees_pixels_resized_as_tensorflow_1_did(inception_file: Path, size: int) -> None:
    """Pixel i of the result is at i · size/299, between its two neighbours; nothing is antialiased."""
    network = inception_v3.build()
    seen: list[Tensor] = []

    class Seen(Exception):
        pass

    def keep(_: object, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])
        raise Seen

    network.get_submodule("Conv2d_1a_3x3").register_forward_pre_hook(keep)
    pixels = to_uint8(pictures(2, size))
    with pytest.raises(Seen), torch.inference_mode():
        network(pixels)
    at = np.arange(299) * (size / 299)
    low = np.floor(at).astype(int)
    high, part = np.minimum(low + 1, size - 1), at - low
    whole = pixels.numpy().astype(np.float64)
    rows = whole[:, :, low] * (1 - part)[:, None] + whole[:, :, high] * part[:, None]
    expected = rows[:, :, :, low] * (1 - part) + rows[:, :, :, high] * part
    np.testing.assert_allclose(seen[0].numpy() * 128 + 128, expected, atol=1e-2)


@pytest.mark.parametrize("size", [48, 224, 280])
def test_dinov2_sees_pixels_resized_as_pillow_does(size: int) -> None:
    """Pillow's bicubic filter in floating point, which it widens when it makes pictures smaller."""
    pixels = to_uint8(pictures(2, size))
    found = dinov2_vit.prepared(pixels)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for picture in range(2):
        for channel in range(3):
            image = Image.fromarray(pixels[picture, channel].numpy().astype(np.float32))
            resized = np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC))
            expected = (resized / 255 - mean[channel]) / std[channel]
            np.testing.assert_allclose(found[picture, channel].numpy(), expected, atol=2e-4)


def test_dinov2_is_the_published_network(dino: FeatureExtractor, small_weights: dict[str, Tensor]) -> None:
    """A vision transformer written out: patches, positions, 12 blocks with layer scale, and the class token."""
    seen = pictures(3, 60)
    with torch.inference_mode():
        expected = _transformer(dinov2_vit.prepared(to_uint8(seen)), small_weights)
    found = dino(seen)
    assert (found.shape, found.dtype) == ((3, WIDTH), torch.float32)
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-4)
    assert float(found.std(dim=0).mean()) > 0.01
    assert (dino.identity.resize, dino.identity.antialias, dino.identity.uint8) == ("224x224 bicubic", True, True)


def _transformer(x: Tensor, weights: dict[str, Tensor]) -> Tensor:
    def linear(rows: Tensor, name: str) -> Tensor:
        return functional.linear(rows, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(rows: Tensor, name: str) -> Tensor:
        return functional.layer_norm(rows, (WIDTH,), weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6)

    patches = functional.conv2d(x, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=14)
    rows = torch.cat([weights["cls_token"].expand(len(x), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
    rows = rows + dinov2_vit.resampled_positions(weights["pos_embed"])
    for block in (f"blocks.{i}" for i in range(DEPTH)):
        qkv = (
            linear(norm(rows, f"{block}.norm1"), f"{block}.attn.qkv")
            .unflatten(2, (3, HEADS, -1))
            .permute(2, 0, 3, 1, 4)
        )
        scores = (qkv[0] @ qkv[1].transpose(2, 3) / (WIDTH // HEADS) ** 0.5).softmax(dim=3)
        attention = linear((scores @ qkv[2]).transpose(1, 2).flatten(2), f"{block}.attn.proj")
        rows = rows + attention * weights[f"{block}.ls1.gamma"]
        hidden = functional.gelu(linear(norm(rows, f"{block}.norm2"), f"{block}.mlp.fc1"))
        rows = rows + linear(hidden, f"{block}.mlp.fc2") * weights[f"{block}.ls2.gamma"]
    return norm(rows, "norm")[:, 0]


def test_positions_are_resampled_at_the_published_places() -> None:
    """A grid that rises linearly shows where it is read: at (i + ½) · 37/16.1 - ½.

    The kernel reproduces a line to 0.05. Without the published offset of 0.1, the last place differs by 0.2.
    """
    ramp = torch.arange(37.0).repeat_interleave(37)[None, :, None]
    grid = torch.cat([torch.full((1, 1, 1), 5.0), ramp], dim=1)
    found = dinov2_vit.resampled_positions(grid)
    assert found.shape == (1, 257, 1)
    assert found[0, 0, 0] == 5
    inner = found[0, 1:, 0].reshape(16, 16)[1:-1, 3]
    torch.testing.assert_close(inner, (torch.arange(1, 15) + 0.5) * 37 / 16.1 - 0.5, rtol=0, atol=0.06)


def test_vit_l_has_the_published_layout() -> None:
    """Without memory: names and shapes of 304 M parameters."""
    network = dinov2_vit.build(dinov2_vit.ARCHITECTURE).state_dict()
    published = dinov2_shapes(1024, 24)
    del published["mask_token"]
    assert {name: tuple(tensor.shape) for name, tensor in network.items()} == {**published, "pos_embed": (1, 257, 1024)}


@pytest.mark.parametrize("name", ["dino", "inception"])
def test_features_do_not_depend_on_neighbours(name: str, request: pytest.FixtureRequest) -> None:
    """Bit for bit on the CPU, at any place of a batch and however pictures are divided into calls."""
    extractor: FeatureExtractor = request.getfixturevalue(name)
    seen = pictures(5, 32)
    found = extractor(seen)
    assert torch.equal(extractor(seen.flip(0)).flip(0), found)
    assert torch.equal(torch.cat([extractor(seen[:3]), extractor(seen[3:])]), found)


@pytest.mark.parametrize("name", ["dino", "inception"])
def test_grey_pictures_are_repeated(name: str, request: pytest.FixtureRequest) -> None:
    extractor: FeatureExtractor = request.getfixturevalue(name)
    grey = pictures(1, 32)[:, :1]
    assert torch.equal(extractor(grey), extractor(grey.repeat(1, 3, 1, 1)))


@pytest.mark.slow
def test_vit_l_in_full_size(tmp_path: Path) -> None:
    """1.2 GB of weights through the file, and one picture through 24 blocks."""
    torch.save(dinov2_weights(1024, 24), tmp_path / dinov2_vit.WEIGHTS.files[0])
    extractor = dinov2_vit.load(request(tmp_path))
    found = extractor(pictures(1, 64))
    assert (found.shape, extractor.identity.num_features) == ((1, 1024), 1024)
    assert torch.isfinite(found).all()


@pytest.mark.parametrize(
    ("load", "package"),
    [(inception_v3.load, "torch-fidelity"), (dinov2_vit.load, "timm")],
)
def test_a_missing_package_is_one_sentence(
    load: Callable[[LoadRequest], FeatureExtractor], package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in ("timm", "torch_fidelity", "torch_fidelity.feature_extractor_inceptionv3"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ScoringError, match=rf"needs the package {package}, .*; pip install 'phema\[metrics\]'"):
        load(request(tmp_path))
