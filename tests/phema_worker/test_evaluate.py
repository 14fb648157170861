"""Evaluations in one process: known values, repeatability, progress and cancellation."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from phema.services.phema_worker.evaluation.parts import Part, cut, part_size
from phema.services.phema_worker.task_progress import Cancelled, TaskProgress
from phema.shared.datasets import InMemory, open_dataset
from phema.shared.drawing.drawing import NotFinite, batch_size
from phema.shared.edm2.networks.building import build_denoiser
from phema.shared.edm2.networks.denoiser import Denoiser
from phema.shared.edm2.sampling.heun import SamplerError
from phema.shared.edm2.sampling.sampler import random_classes, sample
from phema.shared.metrics.held_out_loss import NUM_LEVELS, _noise, measure, sigma_grid
from phema.shared.metrics.registry import METRICS
from phema.shared.recipes.evaluation_recipe import EvaluationRecipe
from phema.shared.recipes.presets import PRESETS, network_preset
from tests.phema_worker.evaluating import evaluate
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


class Watches:
    """The progress of each task of an evaluation."""

    def __init__(self) -> None:
        self.all: list[TaskProgress] = []

    def __call__(self) -> TaskProgress:
        self.all.append(TaskProgress())
        return self.all[-1]

    @property
    def done(self) -> list[int]:
        return [watch._done for watch in self.all]


def test_equal_arguments_give_equal_figures_and_pictures(denoiser: Denoiser) -> None:
    one, other = (evaluate(denoiser, None, CONFIG, RECIPE) for _ in range(2))
    assert (one.values, one.png) == (other.values, other.png)


@pytest.mark.parametrize("ends", [[48], [1, 48], [7, 8, 40, 48], list(range(1, 49))])
def test_figures_do_not_depend_on_how_the_pictures_are_cut_into_parts(denoiser: Denoiser, ends: list[int]) -> None:
    """Bit for bit, with their errors: so they depend neither on the number of actors nor on what was drawn before."""
    wanted = evaluate(denoiser, None, CONFIG, RECIPE)
    parts = [Part(start, end - start) for start, end in zip([0, *ends], ends, strict=False)]
    found = evaluate(denoiser, None, CONFIG, RECIPE, parts=parts)
    assert found.values == wanted.values
    assert found.png == wanted.png


def test_only_what_was_asked_for_is_computed(denoiser: Denoiser) -> None:
    watches = Watches()
    recipe = RECIPE.model_copy(update={"metrics": ("held_out_loss",)})
    found = evaluate(denoiser, None, CONFIG, recipe, watch=watches)
    assert set(found.figures) == {figure.name for figure in METRICS["held_out_loss"].figures}
    assert watches.done == [0, 5, 297 * NUM_LEVELS], "prepared, grid in one batch, figures"


def test_progress_counts_every_evaluation_of_the_network(denoiser: Denoiser) -> None:
    watches = Watches()
    evaluate(denoiser, None, CONFIG, RECIPE, watch=watches)
    assert [watch.fraction for watch in watches.all[1:]] == [1.0] * 3
    assert watches.done[1:] == [5, 5, 297 * NUM_LEVELS + 1], "one batch for the grid, one for the samples"


@pytest.mark.parametrize(
    ("interval", "guiding"),
    [(None, 5), ((80.0, 90.0), 0), ((3.0, 80.0), 2), ((0.0, 3.0), 3), ((0.0, 0.1), 1)],
)
def test_progress_counts_the_guide_where_it_guides(
    denoiser: Denoiser, interval: tuple[float, float] | None, guiding: int
) -> None:
    """Three steps: from 80 to about 2.5, to 0.002, and to 0 with a single evaluation."""
    watches, guide = Watches(), build_denoiser(CONFIG.network)
    calls: list[int] = []
    guide.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    options = {"guidance": 2.0, "guide_id": "rec-x", "guidance_interval": interval, "churn": 1.0}
    recipe = RECIPE.model_copy(update={**options, "metrics": ("frechet",)})
    evaluate(denoiser, guide, CONFIG, recipe, watch=watches)
    assert [watch.fraction for watch in watches.all[1:]] == [1.0] * 3
    assert sum(watches.done[1:3]) == 2 * (5 + guiding)
    assert len(calls) == 2 * guiding, "one batch for the grid, one for the samples"


def test_pictures_depend_on_neither_batch_size_nor_threads(denoiser: Denoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit. Threads may round the features of a picture differently, far below what figures are shown with."""
    recipe = RECIPE.model_copy(update={"metrics": ("frechet",), "churn": 1.0})
    reference = evaluate(denoiser, None, CONFIG, recipe)
    monkeypatch.setattr("phema.shared.drawing.drawing.batch_size", lambda _: 5)
    found = evaluate(denoiser, None, CONFIG, recipe)
    assert (found.values, found.png) == (reference.values, reference.png)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = evaluate(denoiser, None, CONFIG, recipe)
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
    png = evaluate(denoiser, None, CONFIG, RECIPE.model_copy(update={"grid": 12})).png
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
    found = measure(denoiser, pictures, p_mean=CONFIG.p_mean, p_std=CONFIG.p_std, batch_size=100)
    assert found["held_out_loss"].value == pytest.approx(wanted, rel=0.01)


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
    measure(denoiser, pictures, p_mean=-0.4, p_std=1.0, batch_size=20, advance=done.append)
    assert read == [list(range(20)), list(range(20, 40)), list(range(40, 50))]
    assert torch.cat(classes[::NUM_LEVELS]).tolist() == labels.tolist()
    assert done == [20 * NUM_LEVELS, 20 * NUM_LEVELS, 10 * NUM_LEVELS]


def _loss(denoiser: Denoiser, pictures: InMemory, batch_size: int) -> float:
    return measure(denoiser, pictures, p_mean=-0.4, p_std=1.0, batch_size=batch_size)["held_out_loss"].value


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
        evaluate(denoiser, None, CONFIG, RECIPE, watch=lambda: watch)
    assert calls == 10


def test_a_network_without_finite_output_is_refused(denoiser: Denoiser) -> None:
    with torch.no_grad():
        denoiser.unet.out_gain.fill_(float("inf"))
    for metrics in (("frechet",), ("held_out_loss",)):
        with pytest.raises(NotFinite, match="not finite"):
            evaluate(denoiser, None, CONFIG, RECIPE.model_copy(update={"metrics": metrics}))


def test_guidance_by_the_network_itself_changes_nothing(denoiser: Denoiser) -> None:
    alone = evaluate(denoiser, None, CONFIG, RECIPE)
    recipe = RECIPE.model_copy(update={"guidance": 2.0, "guide_id": "rec-self"})
    both = evaluate(denoiser, denoiser, CONFIG, recipe)
    assert both.figures["frechet"] == pytest.approx(alone.figures["frechet"], rel=1e-3)


def test_a_guide_of_another_shape_is_refused(denoiser: Denoiser) -> None:
    other = tiny_config(network={"model_channels": 16, "channels_per_head": 16, "label_dim": 3})
    recipe = RECIPE.model_copy(update={"guidance": 2.0, "guide_id": "rec-other"})
    with pytest.raises(SamplerError, match="label_dim"):
        evaluate(denoiser, build_denoiser(other.network), CONFIG, recipe)


@pytest.mark.parametrize("preset", PRESETS)
def test_batches_fit_the_network(preset: str) -> None:
    network = network_preset(preset)
    sizes = {"digits-tiny": 256, "edm2-img512-s": 21, "edm2-img512-xxl": 9}

    class Shape:
        config = network

    size = batch_size(Shape())  # type: ignore[arg-type]
    assert size == sizes.get(preset, size)
    assert 1 <= size <= 256


def test_parts_cover_all_pictures_once_and_reuse_what_was_drawn() -> None:
    size = part_size(64)
    assert (part_size(8), size) == (512, 128)
    assert cut(0, [], size) == []
    assert cut(1000, [], size) == [*(Part(start, 128) for start in range(0, 896, 128)), Part(896, 104)]
    extended = cut(5000, cut(1000, [], size), size)
    assert extended[:8] == cut(1000, [], size)
    assert next(part for part in extended if part.first >= 1000) == Part(1000, 24)
    assert sum(part.count for part in extended[8:]) == 4000, "exactly the new pictures are drawn"
    starts = [part.first for part in extended]
    assert starts == [sum(part.count for part in extended[:i]) for i in range(len(extended))]
    unfitting = [Part(0, 2000), Part(0, 16, grid=True)]
    assert cut(1000, unfitting, size) == cut(1000, [], size), "parts that do not fit are not used"


def test_pictures_are_kept_as_a_dataset(denoiser: Denoiser, tmp_path: Path) -> None:
    """Named by seed, with the classes that they were drawn with, equal to what the sampler draws."""
    recipe = RECIPE.model_copy(update={"keep_pictures": True, "seed": 998, "metrics": ("held_out_loss",)})
    found = evaluate(denoiser, None, CONFIG, recipe, parts=[Part(0, 20), Part(20, 28)])
    assert found.archive is not None
    with zipfile.ZipFile(io.BytesIO(found.archive)) as packed:
        names = packed.namelist()
        images = np.stack([np.asarray(Image.open(packed.open(name))) for name in names[:-1]])
        classes = [label for _, label in json.loads(packed.read("dataset.json"))["labels"]]
    assert names[:3] == ["00000/img00000998.png", "00000/img00000999.png", "00001/img00001000.png"]
    assert names[-1] == "dataset.json"
    (tmp_path / "drawn.zip").write_bytes(found.archive)
    choice = {"name": "drawn", "path": str(tmp_path / "drawn.zip"), "held_out": 0}
    assert len(open_dataset(CONFIG.dataset.model_copy(update=choice)).train) == 48
    seeds = range(998, 998 + 48)
    drawn = sample(denoiser, seeds=seeds, num_steps=3).clamp(-1, 1).numpy()
    assert np.array_equal(images, np.rint((drawn[:, 0] + 1) * 127.5))
    assert classes == random_classes(denoiser, seeds)
    same = sample(denoiser, seeds=seeds, num_steps=3, class_labels=classes).clamp(-1, 1).numpy()
    assert np.array_equal(drawn, same)


def test_what_decides_the_figures_is_recorded(denoiser: Denoiser) -> None:
    found = evaluate(denoiser, None, CONFIG, RECIPE).provenance
    assert found["num_samples"] == 48
    assert found["extractors"]["random"]["name"] == "random"
    assert found["references"]["random"]["num_pictures"] == 1500
    assert found["pictures_per_second"] > 0
    assert 0 <= found["waiting_share"] < 1
    assert found["device"] == "cpu"
