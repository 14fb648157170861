"""diffusers' own EMAModel and pipelines: averages in, a pipeline out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file

import phema
from phema.errors import InvalidArgument
from phema.integrations.diffusers import import_averages, write_pipeline
from tests.integrations.tracked import DirectAverages

BATCH, STEPS, SAVE_EVERY = 4, 320, 20
WIDTH = 0.06


def unet() -> UNet2DModel:
    torch.manual_seed(0)
    shape = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8,), "norm_num_groups": 4}
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "layers_per_block": 1}
    return UNet2DModel(**shape, **blocks, add_attention=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, DirectAverages]:
    """A training as in diffusers' examples: `checkpoint-N/unet_ema` every few steps, and a pipeline at the end.

    Its learning rate is constant, so that the weights move until the end.
    """
    folder = tmp_path_factory.mktemp("trained")
    model = unet()
    average = EMAModel(model.parameters(), decay=0.98, model_cls=UNet2DModel, model_config=model.config)
    direct = DirectAverages((WIDTH,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(1)
    for step in range(1, STEPS + 1):
        noise = torch.randn(BATCH, 1, 8, 8, generator=generator)
        loss = (model(0.5 * noise + 0.5, torch.full([BATCH], 500)).sample - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.step(model.parameters())
        direct.update(model, step * BATCH)
        if step % SAVE_EVERY == 0:
            average.save_pretrained(folder / f"checkpoint-{step}" / "unet_ema")
    DDPMPipeline(model, DDPMScheduler(num_train_timesteps=1000)).save_pretrained(folder / "pipeline")
    return folder, average, direct


def test_averages_become_snapshots_and_other_lengths(trained: tuple[Path, Any, DirectAverages], tmp_path: Path) -> None:
    folder, average, direct = trained
    done = import_averages(folder, "runs/mine", images_per_step=BATCH)
    assert (done.written, done.known) == (STEPS // SAVE_EVERY, 0)
    again = import_averages(folder, "runs/mine", images_per_step=BATCH)
    assert (again.written, again.known) == (0, STEPS // SAVE_EVERY)
    run = phema.open("runs/mine")
    last = run.snapshots()[-1]
    assert (last.num_images, last.profile.kind, last.dtype) == (STEPS * BATCH, "exponential", "float32")
    assert last.profile.half_life_images == round(34.31 * BATCH)  # 0.98 to the power of 34.31 is 0.5
    path = run.store.local_path(last.key)
    assert path is not None
    stored = load_file(path)
    for name, value in zip(dict(unet().named_parameters()), average.shadow_params, strict=True):
        assert torch.equal(stored[name], value)
    # The profile says what diffusers did: a power-function average made of the 16 files is the one tracked directly.
    [chosen] = run.reconstruct(WIDTH, output=tmp_path / "chosen.safetensors")
    made, wanted = load_file(chosen.path), direct.values[WIDTH]
    first = direct.at[SAVE_EVERY * BATCH][WIDTH]
    wrong = sum(float((made[name].double() - value).square().sum()) for name, value in wanted.items())
    moved = sum(float((first[name] - value).square().sum()) for name, value in wanted.items())
    assert (wrong / moved) ** 0.5 < 0.02


def test_chosen_weights_become_a_pipeline(trained: tuple[Path, Any, DirectAverages], tmp_path: Path) -> None:
    folder, *_ = trained
    import_averages(folder, "runs/mine", images_per_step=BATCH)
    [chosen] = phema.open("runs/mine").reconstruct(WIDTH, output=tmp_path / "chosen.safetensors")
    made = write_pipeline(folder / "pipeline", tmp_path / "averaged", {"unet": chosen.path})
    pipeline = DDPMPipeline.from_pretrained(made)
    weights = load_file(chosen.path)
    assert all(torch.equal(weights[name], value) for name, value in pipeline.unet.state_dict().items())
    drawn = pipeline(num_inference_steps=2, output_type="np", generator=torch.Generator().manual_seed(0)).images
    assert drawn.shape == (1, 8, 8, 1)
    assert not list(tmp_path.glob(".phema-*"))
    with pytest.raises(InvalidArgument, match="exists already"):
        write_pipeline(folder / "pipeline", made, {"unet": chosen.path})
    with pytest.raises(InvalidArgument, match=r"component 'vae' has no .* allowed: unet"):
        write_pipeline(folder / "pipeline", tmp_path / "other", {"vae": chosen.path})


def test_averages_that_are_no_exponential_profile_are_refused(tmp_path: Path) -> None:
    model = unet()
    average = EMAModel(model.parameters(), use_ema_warmup=True, model_cls=UNet2DModel, model_config=model.config)
    average.step(model.parameters())
    average.save_pretrained(tmp_path / "files" / "unet_ema")
    with pytest.raises(InvalidArgument, match="use_ema_warmup is True, with which the average is no exponential"):
        import_averages(tmp_path / "files", "runs/mine", images_per_step=BATCH)
    assert not Path("runs").exists()
