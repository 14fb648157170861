"""Latents: encoded by a small AutoencoderKL, sampled by seed, decoded to the same pictures."""

from __future__ import annotations

import io
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phema.shared.datasets import Dataset, DatasetError, HubUnreachable, open_dataset, open_files
from phema.shared.datasets.preparation.torchvision_operators import declare_missing_operators
from phema.shared.datasets.preparation.vae import Vae, decode, encode
from phema.shared.recipes.run_config import DatasetConfig
from tests.datasets.photos import npy, photo_files, tiles, write_folder, write_zip

SHIFT = np.array([5.81, 3.25, 0.12, -2.15])[:, None, None]
SCALE = 0.5 / np.array([4.17, 4.62, 3.71, 3.28])[:, None, None]


@pytest.fixture(scope="module")
def vae_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights; 16x16 pictures become 8x8 latents."""
    declare_missing_operators()
    from diffusers import AutoencoderKL

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8),
            norm_num_groups=4,
        )
    folder = tmp_path_factory.mktemp("vae")
    model.save_pretrained(folder)
    return folder


def opened(path: Path) -> Dataset:
    return open_dataset(DatasetConfig(name="latents", path=str(path), held_out=0))


def test_encoding_is_what_diffusers_gives(vae_folder: Path, tmp_path: Path) -> None:
    declare_missing_operators()
    from diffusers import AutoencoderKL

    files, pictures = photo_files(10, 16)
    seen: list[tuple[int, int]] = []
    source = open_files(str(write_zip(tmp_path / "photos.zip", files)))
    vae = Vae(str(vae_folder))
    assert encode(source, tmp_path / "latents.zip", vae, progress=lambda *at: seen.append(at)) == (10, (8, 8, 8))
    assert seen == [(i, 10) for i in range(11)]
    model = AutoencoderKL.from_pretrained(vae_folder, low_cpu_mem_usage=False).eval()
    for i in (0, 9):
        image = torch.from_numpy(pictures[i].transpose(2, 0, 1)[None] / 255).float()  # in [0, 1]
        with torch.no_grad():
            posterior = model.encode(image).latent_dist
        dataset = open_files(str(tmp_path / "latents.zip"))
        stored = np.load(io.BytesIO(dataset.read(dataset.names.index(f"00000/img{i:08d}.npy"))))
        assert stored.dtype == np.float32
        np.testing.assert_allclose(stored[:4], posterior.mean[0].numpy(), atol=1e-5)
        np.testing.assert_allclose(stored[4:], posterior.std[0].numpy(), rtol=1e-4)
    latents = opened(tmp_path / "latents.zip")
    assert (latents.info.encoding, latents.channels, latents.resolution, latents.num_classes) == ("latents", 4, 8, 4)
    assert np.bincount(latents.train.labels).tolist() == [3, 3, 2, 2]


def test_latents_are_normalised_channel_by_channel(tmp_path: Path) -> None:
    random = np.random.RandomState(0)
    mean = random.standard_normal((4, 8, 8)) * 4 + SHIFT
    dataset = opened(write_folder(tmp_path, {"a.npy": npy(np.concatenate([mean, mean**2]).astype(np.float32))}))
    images, _ = dataset.train.batch(np.array([0]))
    np.testing.assert_allclose(images[0], (mean - SHIFT) * SCALE, atol=1e-5)


def test_seeds_decide_the_sample_and_nothing_else(tmp_path: Path) -> None:
    random = np.random.RandomState(0)
    arrays = [np.abs(random.standard_normal((8, 16, 16))).astype(np.float32) for _ in range(3)]
    train = opened(write_folder(tmp_path, {f"{i}.npy": npy(a) for i, a in enumerate(arrays)})).train
    seeds = np.array([5, 2**40 + 5, 5])
    images, _ = train.batch(np.array([0, 0, 1]), seeds)
    alone, _ = train.batch(np.array([1]), seeds[2:])
    np.testing.assert_array_equal(images[2], alone[0])
    assert not np.array_equal(images[0], images[1])  # all 64 bits of a seed count
    means, _ = train.batch(np.array([0, 0, 1]))
    np.testing.assert_array_equal(means[0], means[1])


def test_samples_have_the_stored_mean_and_deviation(tmp_path: Path) -> None:
    """Over 4,000 seeds; each of 16 values to five standard errors."""
    random = np.random.RandomState(1)
    mean, std = random.standard_normal((4, 2, 2)), random.uniform(0.5, 2, (4, 2, 2))
    train = opened(write_folder(tmp_path, {"a.npy": npy(np.concatenate([mean, std]).astype(np.float32))})).train
    count = 4000
    samples, _ = train.batch(np.zeros(count, np.int64), np.arange(count))
    np.testing.assert_array_less(np.abs(samples.mean(0) / SCALE + SHIFT - mean), 5 * std / count**0.5)
    np.testing.assert_array_less(np.abs(samples.std(0) / SCALE / std - 1), 5 / (2 * count) ** 0.5)


def test_a_sample_never_changes(tmp_path: Path) -> None:
    """A resumed run may meet another version of this code or of NumPy; what it learns from must stay."""
    stored = np.concatenate([np.zeros((4, 1, 1)), np.ones((4, 1, 1))]).astype(np.float32)
    train = opened(write_folder(tmp_path, {"a.npy": npy(stored)})).train
    images, _ = train.batch(np.array([0]), np.array([7]))
    eps = np.random.RandomState([7, 0]).standard_normal((4, 1, 1))
    np.testing.assert_allclose(images[0], (eps - SHIFT) * SCALE, rtol=1e-5)


def test_decoding_undoes_the_normalisation(vae_folder: Path) -> None:
    declare_missing_operators()
    from diffusers import AutoencoderKL

    plain = torch.randn(9, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * 4
    shift, scale = torch.from_numpy(SHIFT).float(), torch.from_numpy(SCALE).float()
    model = AutoencoderKL.from_pretrained(vae_folder, low_cpu_mem_usage=False).eval()
    with torch.no_grad():
        expected = model.decode(plain).sample.clamp(0, 1)  # the VAE speaks [0, 1]
    found = decode((plain - shift) * scale, str(vae_folder))
    assert found.shape == (9, 3, 16, 16)
    assert found.dtype == torch.float32
    np.testing.assert_allclose((found.numpy() + 1) / 2, expected.numpy(), atol=1e-4)
    assert float(found.std()) > 0.01


def test_mistakes_are_named(vae_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vae = Vae(str(vae_folder))
    with pytest.raises(DatasetError, match=r"latents have the shape \[1, 3, 8, 8\]; \[N, 4, h, w\] is needed"):
        vae.decode(torch.zeros(1, 3, 8, 8))
    grey = write_folder(tmp_path / "grey", {"a.npy": npy(tiles(1, 16)[0][None, ..., 0])})
    with pytest.raises(DatasetError, match="holds 16x16 grey; a VAE encodes RGB pictures"):
        encode(open_files(str(grey)), tmp_path / "x", vae)
    odd = write_folder(tmp_path / "odd", {"a.npy": npy(tiles(1, 15)[0].transpose(2, 0, 1))})
    with pytest.raises(DatasetError, match=r"has 15 pixels a side; VAE .* needs a multiple of 2"):
        encode(open_files(str(odd)), tmp_path / "x", vae)
    with pytest.raises(DatasetError, match="VAE /none is neither a folder on this machine nor an id"):
        Vae("/none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"VAE .*empty cannot be loaded: "):
        Vae(str(tmp_path / "empty"))
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(DatasetError, match=r"latents need the package diffusers, .* pip install 'phema\[vae\]'"):
        Vae(str(vae_folder))


@pytest.mark.filterwarnings("ignore:The `local_dir_use_symlinks` argument:UserWarning")
def test_a_hub_that_is_away_is_worth_another_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubUnreachable, match="VAE nobody/none is not on this machine, and its hub cannot be reached"):
        Vae("nobody/none")


@pytest.mark.filterwarnings("ignore:The `local_dir_use_symlinks` argument:UserWarning")
def test_an_id_that_the_hub_does_not_know_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", url)
        try:
            with pytest.raises(DatasetError, match="VAE nobody/none cannot be loaded: nobody/none is not a local fol"):
                Vae("nobody/none")
        finally:
            server.shutdown()
            thread.join()


def test_channels_of_a_vae_are_checked(tmp_path: Path) -> None:
    declare_missing_operators()
    from diffusers import AutoencoderKL

    options: dict[str, Any] = {"block_out_channels": (8,), "norm_num_groups": 4, "latent_channels": 16}
    AutoencoderKL(**options).save_pretrained(tmp_path)
    with pytest.raises(DatasetError, match="makes 16 channels of 3; one that makes 4 of 3 is needed"):
        Vae(str(tmp_path))
