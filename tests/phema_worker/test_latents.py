"""Evaluations of networks that draw latents: the stored picture shows the decoded latents."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from phema.shared.datasets import DatasetError
from phema.shared.datasets.preparation.torchvision_operators import declare_missing_operators
from phema.shared.drawing.drawing import draw
from phema.shared.drawing.picture_files import write_pictures
from phema.shared.edm2.networks.building import build_denoiser
from phema.shared.recipes.evaluation_recipe import EvaluationRecipe
from phema.shared.recipes.run_config import RunConfig
from phema.shared.recipes.sample_request import SampleRequest
from tests.datasets.photos import npy, write_zip
from tests.phema_worker.evaluating import evaluate
from tests.trainer.support import tiny_config

RECIPE = EvaluationRecipe(num_samples=8, num_steps=2, grid=2)


def latent_run(folder: Path, vae: str | None, held_out: int = 2) -> RunConfig:
    random = np.random.RandomState(0)
    files = {f"{i}.npy": npy(np.abs(random.standard_normal((8, 4, 4))).astype(np.float32)) for i in range(8)}
    path = str(write_zip(folder / "latents.zip", files))
    network = {"img_resolution": 4, "img_channels": 4, "label_dim": 0, "channel_mult": [1]}
    return tiny_config(network=network, dataset={"name": "latents", "path": path, "held_out": held_out, "vae": vae})


def size_of(png: bytes) -> tuple[str, int]:
    image = Image.open(io.BytesIO(png))
    return image.mode, image.width


def test_latents_are_decoded_for_people(tmp_path: Path) -> None:
    declare_missing_operators()
    from diffusers import AutoencoderKL

    with torch.random.fork_rng():
        torch.manual_seed(0)
        blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
        AutoencoderKL(**blocks, block_out_channels=(4, 4), norm_num_groups=2).save_pretrained(tmp_path / "vae")
        config = latent_run(tmp_path, str(tmp_path / "vae"))
        denoiser = build_denoiser(config.network)
    decoded = evaluate(denoiser, None, config, RECIPE)
    plain = evaluate(denoiser, None, latent_run(tmp_path, None), RECIPE)
    assert decoded.figures == plain.figures  # figures are of latents, with or without a VAE
    assert {"frechet", "held_out_loss"} <= set(decoded.figures)
    # 4x4 latents become 8x8 pictures, enlarged by whole factors to 48 pixels either way
    assert size_of(decoded.png) == size_of(plain.png) == ("RGB", 102)
    assert decoded.png != plain.png


def test_drawn_latents_are_decoded_as_in_an_evaluation(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    with torch.random.fork_rng():
        torch.manual_seed(0)
        blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
        AutoencoderKL(**blocks, block_out_channels=(4, 4), norm_num_groups=2).save_pretrained(tmp_path / "vae")
        config = latent_run(tmp_path, str(tmp_path / "vae"))
        denoiser = build_denoiser(config.network)
    grid = evaluate(denoiser, None, config, RECIPE.model_copy(update={"grid": 4})).png
    asked = SampleRequest(seeds="0-15", num_steps=2, columns=4)  # type: ignore[arg-type]
    pieces: list[bytes] = []
    batches = draw(denoiser, None, asked, label=None, vae=config.dataset.vae)
    write_pictures(asked, batches, lambda piece: pieces.append(bytes(piece)))
    assert b"".join(pieces) == grid
    alone = draw(denoiser, None, asked.model_copy(update={"seeds": (5,)}), label=None, vae=config.dataset.vae)
    together = draw(denoiser, None, asked, label=None, vae=config.dataset.vae)
    np.testing.assert_array_equal(next(alone).pixels[0], next(together).pixels[5])


def test_a_loss_on_no_pictures_is_refused(tmp_path: Path) -> None:
    config = latent_run(tmp_path, None, held_out=0)
    denoiser = build_denoiser(config.network)
    with pytest.raises(DatasetError, match=r"dataset\.held_out of the run is 0, so no pictures were kept"):
        evaluate(denoiser, None, config, RECIPE)
    evaluate(denoiser, None, config, RECIPE.model_copy(update={"metrics": ("frechet",)}))
