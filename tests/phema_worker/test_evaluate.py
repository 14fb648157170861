"""Evaluations in one process: known values, repeatability, progress and cancellation."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from phema.services.phema_worker.evaluate import NotFinite, batch_size, evaluate
from phema.services.phema_worker.task_progress import Cancelled, TaskProgress
from phema.shared.datasets import InMemory, open_dataset
from phema.shared.edm2.networks.building import build_denoiser
from phema.shared.edm2.networks.denoiser import Denoiser
from phema.shared.edm2.sampling.heun import SamplerError
from phema.shared.metrics.held_out_loss import NUM_LEVELS, _noise, held_out_loss, sigma_grid
from phema.shared.recipes.evaluation_recipe import EvaluationRecipe
from phema.shared.recipes.presets import PRESETS, network_preset
from tests.phema_worker.lab import tiny_config

CONFIG = tiny_config()
RECIPE = EvaluationRecipe(num_samples=48, num_steps=3, grid=4)


@pytest.fixture
def denoiser() -> Denoiser:
    torch.manual_seed(3)
    made = build_denoiser(CONFIG.network)
    with torch.no_grad():
        made.unet.out_gain.fill_(0.5)
    return made.eval()


def test_equal_arguments_give_equal_figures_and_pictures(denoiser: Denoiser) -> None:
    assert evaluate(denoiser, None, CONFIG, RECIPE, TaskProgress()) == evaluate(
        denoiser, None, CONFIG, RECIPE, TaskProgress()
    )


def test_only_what_was_asked_for_is_computed(denoiser: Denoiser) -> None:
    watch = TaskProgress()
    recipe = RECIPE.model_copy(update={"metrics": ("held_out_loss",)})
    scores = evaluate(denoiser, None, CONFIG, recipe, watch)
    assert set(scores.figures) == {"held_out_loss"}
    assert scores.num_sampled == 16
    assert watch.fraction == 1.0


def test_progress_counts_every_evaluation_of_the_network(denoiser: Denoiser) -> None:
    watch = TaskProgress()
    evaluate(denoiser, None, CONFIG, RECIPE, watch)
    assert watch.fraction == 1.0
    assert watch._done == (16 + 48) * 5 + 297 * NUM_LEVELS


@pytest.mark.parametrize(
    ("interval", "guiding"),
    [(None, 5), ((80.0, 90.0), 0), ((3.0, 80.0), 2), ((0.0, 3.0), 3), ((0.0, 0.1), 1)],
)
def test_progress_counts_the_guide_where_it_guides(
    denoiser: Denoiser, interval: tuple[float, float] | None, guiding: int
) -> None:
    """Three steps: from 80 to about 2.5, to 0.002, and to 0 with a single evaluation."""
    watch, guide = TaskProgress(), build_denoiser(CONFIG.network)
    calls: list[int] = []
    guide.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    options = {"guidance": 2.0, "guide_id": "rec-x", "guidance_interval": interval, "churn": 1.0}
    recipe = RECIPE.model_copy(update={**options, "metrics": ("frechet",)})
    evaluate(denoiser, guide, CONFIG, recipe, watch)
    assert watch.fraction == 1.0
    assert watch._done == (16 + 48) * (5 + guiding)
    assert len(calls) == 2 * guiding, "one batch for the grid, one for the samples"


def test_pictures_depend_on_neither_batch_size_nor_threads(denoiser: Denoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit. Threads may round the features of a picture differently, far below what figures are shown with."""
    recipe = RECIPE.model_copy(update={"metrics": ("frechet",), "churn": 1.0})
    reference = evaluate(denoiser, None, CONFIG, recipe, TaskProgress())
    monkeypatch.setattr("phema.services.phema_worker.evaluate.batch_size", lambda _: 5)
    assert evaluate(denoiser, None, CONFIG, recipe, TaskProgress()) == reference
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = evaluate(denoiser, None, CONFIG, recipe, TaskProgress())
    finally:
        torch.set_num_threads(threads)
    assert found.png == reference.png
    assert found.figures == pytest.approx(reference.figures, rel=1e-6)


def test_rows_of_the_grid_are_classes(denoiser: Denoiser) -> None:
    """A network that draws its class's own brightness shows one brightness per row."""

    def draw(module: Denoiser, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        labels = inputs[2]
        brightness = labels.argmax(dim=1).float() / 10
        return brightness[:, None, None, None].expand_as(output)

    denoiser.register_forward_hook(draw)
    png = evaluate(denoiser, None, CONFIG, RECIPE.model_copy(update={"grid": 12}), TaskProgress()).png
    image = np.asarray(Image.open(io.BytesIO(png)))
    rows = [image[2 + 50 * row + 20, 22::50][:12] for row in range(12)]
    for row, shades in enumerate(rows):
        assert set(shades.tolist()) == {round((row % 10 / 10 + 1) * 127.5)}


def test_the_held_out_loss_of_a_network_without_output_is_known(denoiser: Denoiser) -> None:
    """D = c_skip x has the error (1 - c_skip) y - c_skip n, whose mean square follows from that of the pictures."""
    with torch.no_grad():
        denoiser.unet.out_gain.zero_()
    pictures = open_dataset(CONFIG.dataset).held_out
    images = pictures.batch(np.arange(len(pictures)))[0]
    power, s = float((images**2).mean()), denoiser.sigma_data
    grid = sigma_grid(CONFIG.p_mean, CONFIG.p_std)
    wanted = np.mean([(sigma**2 * power / s**2 + s**2) / (sigma**2 + s**2) for sigma in grid])
    found = held_out_loss(denoiser, pictures, p_mean=CONFIG.p_mean, p_std=CONFIG.p_std, batch_size=100)
    assert found == pytest.approx(wanted, rel=0.01)


def test_the_held_out_loss_does_not_depend_on_the_batch(denoiser: Denoiser) -> None:
    images, labels = open_dataset(CONFIG.dataset).held_out.batch(np.arange(50))
    losses = [_loss(denoiser, InMemory(images, labels), size) for size in (7, 50)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_noise_does_not_depend_on_the_batch() -> None:
    """Not even where a picture holds no multiple of the 16 numbers that torch draws at once."""
    for shape in ((1, 8, 8), (3, 2, 3)):
        drawn = []
        for size in (1, 4, 9):
            generator = torch.Generator().manual_seed(0)
            parts = [min(size, 9 - start) for start in range(0, 9, size)]
            drawn.append(torch.cat([_noise(torch.Size((part, *shape)), generator) for part in parts]))
        assert torch.equal(drawn[0], drawn[1])
        assert torch.equal(drawn[0], drawn[2])
    assert torch.equal(_noise(torch.Size((9, 1, 8, 8)), torch.Generator().manual_seed(0)), _one_draw(9, 1, 8, 8))


def test_held_out_pictures_are_read_once_by_batches_with_a_chance_to_stop(denoiser: Denoiser) -> None:
    images, labels = open_dataset(CONFIG.dataset).held_out.batch(np.arange(50))
    read: list[list[int]] = []

    class Recorded(InMemory):
        def batch(
            self, indices: NDArray[np.int64], seeds: NDArray[np.int64] | None = None
        ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
            read.append(indices.tolist())
            return super().batch(indices, seeds)

    done: list[int] = []
    classes: list[torch.Tensor] = []
    denoiser.register_forward_pre_hook(lambda _, inputs: classes.append(inputs[2].argmax(dim=1)))
    pictures = Recorded(images, labels)
    held_out_loss(denoiser, pictures, p_mean=-0.4, p_std=1.0, batch_size=20, advance=done.append)
    assert read == [list(range(20)), list(range(20, 40)), list(range(40, 50))]
    assert torch.cat(classes[::NUM_LEVELS]).tolist() == labels.tolist()
    assert done == [20 * NUM_LEVELS, 20 * NUM_LEVELS, 10 * NUM_LEVELS]


def _loss(denoiser: Denoiser, pictures: InMemory, batch_size: int) -> float:
    return held_out_loss(denoiser, pictures, p_mean=-0.4, p_std=1.0, batch_size=batch_size)


def _one_draw(*shape: int) -> torch.Tensor:
    """As figures of earlier versions were made."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_the_grid_of_noise_levels_has_the_training_distribution() -> None:
    logs = np.log(sigma_grid(-0.4, 1.0, levels=1000))
    assert logs.mean() == pytest.approx(-0.4, abs=1e-6)
    assert logs.std() == pytest.approx(1.0, abs=0.01)


def test_work_stops_at_the_next_evaluation_of_the_network(denoiser: Denoiser) -> None:
    watch = TaskProgress()
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 10:
            watch.stop()

    denoiser.register_forward_hook(count)
    with pytest.raises(Cancelled):
        evaluate(denoiser, None, CONFIG, RECIPE, watch)
    assert calls == 10


def test_a_network_without_finite_output_is_refused(denoiser: Denoiser) -> None:
    with torch.no_grad():
        denoiser.unet.out_gain.fill_(float("inf"))
    for metrics in (("frechet",), ("held_out_loss",)):
        with pytest.raises(NotFinite, match="not finite"):
            evaluate(denoiser, None, CONFIG, RECIPE.model_copy(update={"metrics": metrics}), TaskProgress())


def test_guidance_by_the_network_itself_changes_nothing(denoiser: Denoiser) -> None:
    alone = evaluate(denoiser, None, CONFIG, RECIPE, TaskProgress())
    recipe = RECIPE.model_copy(update={"guidance": 2.0, "guide_id": "rec-self"})
    both = evaluate(denoiser, denoiser, CONFIG, recipe, TaskProgress())
    assert both.figures["frechet"] == pytest.approx(alone.figures["frechet"], rel=1e-3)


def test_a_guide_of_another_shape_is_refused(denoiser: Denoiser) -> None:
    other = tiny_config(network={"model_channels": 16, "channels_per_head": 16, "label_dim": 3})
    recipe = RECIPE.model_copy(update={"guidance": 2.0, "guide_id": "rec-other"})
    with pytest.raises(SamplerError, match="label_dim"):
        evaluate(denoiser, build_denoiser(other.network), CONFIG, recipe, TaskProgress())


@pytest.mark.parametrize("preset", PRESETS)
def test_batches_fit_the_network(preset: str) -> None:
    network = network_preset(preset)
    sizes = {"digits-tiny": 256, "edm2-img512-s": 21, "edm2-img512-xxl": 9}

    class Shape:
        config = network

    size = batch_size(Shape())  # type: ignore[arg-type]
    assert size == sizes.get(preset, size)
    assert 1 <= size <= 256
