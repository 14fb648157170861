"""Pictures drawn for a request, and the files that hold them."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from phema.shared.datasets import open_dataset
from phema.shared.drawing.drawing import Drawn, NotFinite, draw, num_evaluations
from phema.shared.drawing.picture_files import write_pictures
from phema.shared.edm2.networks.building import build_denoiser
from phema.shared.edm2.networks.denoiser import Denoiser
from phema.shared.edm2.sampling.sampler import sample
from phema.shared.recipes.evaluation_recipe import EvaluationRecipe
from phema.shared.recipes.run_config import DatasetConfig
from phema.shared.recipes.sample_request import SampleRequest
from tests.phema_worker.evaluating import evaluate
from tests.phema_worker.lab import tiny_config

CONFIG = tiny_config()


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    torch.manual_seed(3)
    made = build_denoiser(CONFIG.network)
    with torch.no_grad():
        made.unet.out_gain.fill_(0.5)
    return made.eval()


def request(**fields: object) -> SampleRequest:
    return SampleRequest.model_validate({"seeds": "0-9", "num_steps": 3, **fields})


def drawn(denoiser: Denoiser, asked: SampleRequest, guide: Denoiser | None = None) -> list[Drawn]:
    return list(draw(denoiser, guide, asked, label=asked.label(CONFIG.network.label_dim)))


def written(denoiser: Denoiser, asked: SampleRequest) -> bytes:
    pieces: list[bytes] = []
    write_pictures(asked, drawn(denoiser, asked), lambda piece: pieces.append(bytes(piece)))
    return b"".join(pieces)


def test_pictures_and_classes_are_those_of_the_sampler(denoiser: Denoiser) -> None:
    [batch] = drawn(denoiser, request(seeds="5,2-4"))
    assert batch.seeds == (5, 2, 3, 4)
    pictures = sample(denoiser, seeds=batch.seeds, class_labels=list(batch.labels or ()), num_steps=3)
    expected = np.rint((pictures.clamp(-1, 1).numpy() + 1) * 127.5).astype(np.uint8)
    np.testing.assert_array_equal(batch.pixels, expected.transpose(0, 2, 3, 1))
    assert len(set(batch.labels or ())) > 1, "the classes that the seeds draw differ"
    torch.testing.assert_close(sample(denoiser, seeds=batch.seeds, num_steps=3), pictures, rtol=0, atol=0)
    assert drawn(denoiser, request(class_label=7))[0].labels == (7,) * 10
    assert drawn(denoiser, request(class_label="none"))[0].labels is None


def test_a_grid_is_that_of_an_evaluation_with_the_same_seeds(denoiser: Denoiser) -> None:
    recipe = EvaluationRecipe(num_samples=8, num_steps=3, grid=4, metrics=("frechet",), seed=20, churn=2.0)
    grid = np.asarray(Image.open(io.BytesIO(evaluate(denoiser, None, CONFIG, recipe).png)))
    # Row 1 of the evaluation's grid shows class 1 with the seeds 24 to 27.
    row = request(seeds="24-27", class_label=1, columns=4, churn=2.0)
    found = np.asarray(Image.open(io.BytesIO(written(denoiser, row))))
    np.testing.assert_array_equal(found[2:50], grid[52:100])


def test_a_picture_does_not_depend_on_the_others(denoiser: Denoiser) -> None:
    many = np.load(io.BytesIO(written(denoiser, request(seeds="0-99", format="npy"))))
    assert (many.shape, many.dtype) == ((100, 8, 8, 1), np.uint8)
    few = np.load(io.BytesIO(written(denoiser, request(seeds="98,3", format="npy"))))
    np.testing.assert_array_equal(few, many[[98, 3]])


def test_an_npz_holds_pictures_classes_and_seeds(denoiser: Denoiser) -> None:
    plain = np.load(io.BytesIO(written(denoiser, request(seeds="0-69", format="npy"))))
    with np.load(io.BytesIO(written(denoiser, request(seeds="0-69", format="npz")))) as found:
        assert set(found) == {"arr_0", "arr_1", "seeds"}
        np.testing.assert_array_equal(found["arr_0"], plain)
        assert found["seeds"].tolist() == list(range(70))
        assert found["arr_1"].tolist() == [
            c for batch in drawn(denoiser, request(seeds="0-69")) for c in batch.labels or ()
        ]
    with np.load(io.BytesIO(written(denoiser, request(class_label="none", format="npz")))) as found:
        assert set(found) == {"arr_0", "seeds"}


def test_a_zip_is_a_dataset(denoiser: Denoiser, tmp_path: Path) -> None:
    path, asked = tmp_path / "drawn.zip", request(seeds="1000-1004,7", format="zip")
    path.write_bytes(written(denoiser, asked))
    [batch] = drawn(denoiser, asked)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        names = ["00001/img00001000.png", "00000/img00000007.png"]
        assert set(names) < set(archive.namelist())
        labels = dict(json.loads(archive.read("dataset.json"))["labels"])
        assert [labels[name] for name in names] == [batch.labels[0], batch.labels[-1]] if batch.labels else False
        picture = np.asarray(Image.open(io.BytesIO(archive.read(names[1]))))
        np.testing.assert_array_equal(picture, batch.pixels[-1, :, :, 0])
    dataset = open_dataset(DatasetConfig(name="drawn", path=str(path), held_out=0))
    dataset.verify()
    assert (dataset.info.num_pictures, dataset.resolution, dataset.channels) == (6, 8, 1)
    unlabelled = request(class_label="none", format="zip")
    (tmp_path / "plain.zip").write_bytes(written(denoiser, unlabelled))
    assert open_dataset(DatasetConfig(name="plain", path=str(tmp_path / "plain.zip"), held_out=0)).num_classes == 0


@pytest.mark.parametrize("format", ["grid", "zip", "npy", "npz"])
def test_equal_requests_give_equal_bytes(denoiser: Denoiser, format: str) -> None:
    asked = request(format=format)
    assert written(denoiser, asked) == written(denoiser, asked)


def test_guidance_and_its_interval_have_their_effect(denoiser: Denoiser) -> None:
    torch.manual_seed(5)
    guide = build_denoiser(CONFIG.network).eval()
    with torch.no_grad():
        guide.unet.out_gain.fill_(0.5)
    guided = {"guidance": 2.0, "guide_id": "rec-1"}
    plain, everywhere = drawn(denoiser, request()), drawn(denoiser, request(**guided), guide)
    nowhere = drawn(denoiser, request(**guided, guidance_interval=[100, 200]), guide)
    np.testing.assert_array_equal(plain[0].pixels, nowhere[0].pixels)
    assert (plain[0].pixels != everywhere[0].pixels).any()


def test_what_an_evaluation_of_the_network_raises_ends_the_drawing(denoiser: Denoiser) -> None:
    calls = []

    class Stop(Exception):
        pass

    def stop() -> None:
        calls.append(1)
        if len(calls) == 4:
            raise Stop

    with pytest.raises(Stop):
        list(draw(denoiser, None, request(), label=None, on_evaluation=stop))
    assert not denoiser._forward_pre_hooks
    written_before: list[bytes] = []
    broken = (batch for batch in [*drawn(denoiser, request()), *drawn(denoiser, request())] if not stop())
    calls[:] = [1, 1]
    with pytest.raises(Stop):
        write_pictures(request(seeds="0-19", format="npy"), broken, lambda piece: written_before.append(bytes(piece)))
    assert written_before == [], "nothing of a broken file is written when its drawing ends"


@pytest.mark.parametrize(
    "fields", [{}, {"guidance": 2.0, "guide_id": "rec-1", "guidance_interval": [0.1, 10]}, {"seeds": "0-69"}]
)
def test_the_evaluations_are_counted_before(denoiser: Denoiser, fields: dict[str, object]) -> None:
    asked, calls = request(**fields), []
    guide = build_denoiser(CONFIG.network).eval() if "guide_id" in fields else None
    list(draw(denoiser, guide, asked, label=None, on_evaluation=lambda: calls.append(1)))
    assert len(calls) == num_evaluations(denoiser, guide, asked, len(asked.seeds))


def test_pictures_that_are_not_finite_are_refused() -> None:
    torch.manual_seed(0)
    broken = build_denoiser(CONFIG.network).eval()
    with torch.no_grad():
        broken.unet.out_gain.fill_(float("nan"))
    with pytest.raises(NotFinite, match="not finite"):
        drawn(broken, request())
