"""`sample` jobs, done by a real worker: the pictures of evaluations, without scoring them."""

from __future__ import annotations

import io
import os
import signal
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from phema.shared.catalog import Job, JobState, Sample
from phema.shared.datasets import open_dataset
from phema.shared.datasets.label_vectors import vectors_of_seeds
from phema.shared.drawing.drawing import draw
from phema.shared.drawing.picture_files import write_pictures
from phema.shared.recipes.evaluation_recipe import EvaluationRecipe
from phema.shared.recipes.sample_request import SampleRequest
from phema.shared.snapshots.files.network_loading import load_model
from phema.shared.submissions import samples
from phema.shared.submissions.errors import InvalidFields
from phema.shared.submissions.job_options import JobOptions
from tests.datasets.photos import labelled, photo_files, write_folder
from tests.phema_worker.conftest import only
from tests.phema_worker.lab import NETWORK, Lab, tiny_config, until


def ask(lab: Lab, reconstruction_id: str, **fields: Any) -> Sample:
    request = SampleRequest.model_validate({"num_steps": 4, **fields})
    with lab.catalog.transaction() as tx:
        return samples.submit(tx, reconstruction_id, request, JobOptions(max_attempts=5))


def job_of(lab: Lab, row: Sample) -> Job:
    with lab.catalog.transaction(read_only=True) as tx:
        return tx.jobs.get(str(row.job_id))


def done(lab: Lab, row: Sample) -> tuple[Sample, bytes]:
    """The finished row and the bytes of its file, which are those that the row records."""
    lab.wait(job_of(lab, row))
    with lab.catalog.transaction(read_only=True) as tx:
        row = tx.samples.get(row.id)
    assert row.result is not None
    data = lab.store.get(row.result["key"])
    assert len(data) == row.result["size"]
    return row, data


def drawn_here(lab: Lab, reconstruction_id: str, request: dict[str, Any]) -> bytes:
    """The file of the request, drawn in this process."""
    asked = SampleRequest.model_validate(request)
    denoiser = load_model(lab.store.get(str(lab.reconstruction(reconstruction_id).key))).denoiser
    pieces: list[bytes] = []
    write_pictures(asked, draw(denoiser, None, asked, label=asked.label(10)), lambda p: pieces.append(bytes(p)))
    return b"".join(pieces)


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_pictures_are_those_of_an_evaluation_bit_for_bit(working_lab: Lab) -> None:
    lab = working_lab
    weights = lab.weights()
    recipe = EvaluationRecipe(num_samples=8, num_steps=4, grid=3, metrics=("frechet",), seed=40)
    evaluating, evaluation_id = lab.ask_evaluation(weights, recipe)
    row, data = done(lab, ask(lab, weights, seeds="43-45", class_label=1, columns=3))
    if evaluating is not None:
        lab.wait(evaluating)
    grid = pixels(lab.store.get(str(lab.evaluation(evaluation_id).pictures_key)))
    np.testing.assert_array_equal(pixels(data)[2:50], grid[52:100])
    assert row.result is not None
    assert row.result["num_sampled"] == 3
    assert ask(lab, weights, seeds=[43, 44, 45], class_label="1", columns=3).state is JobState.SUCCEEDED
    row, data = done(lab, ask(lab, weights, seeds="0-4", format="npz"))
    assert data == drawn_here(lab, weights, row.request), "bit for bit, in any process"


@only("local")
def test_a_guide_changes_the_pictures(working_lab: Lab) -> None:
    lab = working_lab
    weights, guide = lab.weights(), lab.weights(0.12)
    guided = {"guidance": 3.0, "guide_id": guide, "seeds": "0-3", "format": "npy"}
    plain, everywhere, nowhere = (
        np.load(io.BytesIO(done(lab, ask(lab, weights, **fields))[1]))
        for fields in ({"seeds": "0-3", "format": "npy"}, guided, {**guided, "guidance_interval": [100, 200]})
    )
    assert (plain != everywhere).any()
    np.testing.assert_array_equal(plain, nowhere)


@only("local")
def test_label_vectors_are_those_of_training_pictures(working_lab: Lab, tmp_path: Path) -> None:
    """Samples and evaluations draw the picture of a seed with the same vector, which the seed chooses."""
    lab = working_lab
    files = {name: data for name, data in photo_files(6, 8)[0].items() if name.endswith(".png")}
    vectors = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]] * 2 + 0.25
    path = write_folder(tmp_path / "tiles", {**files, "dataset.json": labelled(list(files), vectors.tolist())})
    dataset = {"name": "tiles", "path": str(path), "held_out": 1, "labels": "vectors"}
    config = tiny_config(network={**NETWORK, "img_channels": 3, "label_dim": 3}, dataset=dataset)
    run = lab.create_run(config)
    lab.add_snapshots(run)
    asked, (weights,) = lab.ask_reconstructions(run, [0.08])
    lab.wait(asked)
    pictures = np.load(io.BytesIO(done(lab, ask(lab, weights, seeds="0-8", format="npy"))[1]))
    denoiser = load_model(lab.store.get(str(lab.reconstruction(weights).key))).denoiser
    rows = vectors_of_seeds(open_dataset(config.dataset), range(9))
    assert {tuple(row) for row in rows.tolist()} == {tuple(row) for row in vectors.tolist()}
    request = SampleRequest.model_validate({"num_steps": 4, "seeds": "0-8", "format": "npy"})
    np.testing.assert_array_equal(
        pictures, np.concatenate([d.pixels for d in draw(denoiser, None, request, label=rows)])
    )
    recipe = EvaluationRecipe(num_samples=8, num_steps=4, grid=3, metrics=("frechet", "held_out_loss"))
    evaluating, evaluation_id = lab.ask_evaluation(weights, recipe)
    if evaluating is not None:
        lab.wait(evaluating)
    grid = pixels(lab.store.get(str(lab.evaluation(evaluation_id).pictures_key)))
    np.testing.assert_array_equal(pixels(done(lab, ask(lab, weights, seeds="0-8", columns=3))[1]), grid)
    with pytest.raises(InvalidFields, match="class_label 1 is not possible: the labels of this network are vectors"):
        ask(lab, weights, class_label=1)


@only("local")
def test_a_class_may_be_given_by_the_name_of_its_folder(working_lab: Lab, tmp_path: Path) -> None:
    lab = working_lab
    photos = [data for name, data in photo_files(6, 8)[0].items() if name.endswith(".png")]
    names = ("ant", "bee", "cat")
    path = write_folder(tmp_path / "animals", {f"{names[i % 3]}/{i}.png": data for i, data in enumerate(photos)})
    network = {**NETWORK, "img_channels": 3, "label_dim": 3}
    run = lab.create_run(tiny_config(network=network, dataset={"name": "animals", "path": str(path), "held_out": 0}))
    lab.add_snapshots(run)
    asked, (weights,) = lab.ask_reconstructions(run, [0.08])
    lab.wait(asked)
    by_name = done(lab, ask(lab, weights, seeds="5", class_label="bee", format="zip"))[1]
    by_number = done(lab, ask(lab, weights, seeds="5", class_label=1, format="zip"))[1]
    assert by_name == by_number
    with zipfile.ZipFile(io.BytesIO(by_name)) as archive:
        assert archive.read("dataset.json") == b'{"labels": [["00000/img00000005.png", 1]]}'
    failed = lab.wait(job_of(lab, ask(lab, weights, class_label="dog")), JobState.FAILED)
    assert failed.error == "class_label 'dog' is no class of this network: its classes are ant, bee, cat"


@only("local")
def test_a_killed_actor_changes_nothing_and_a_cancel_leaves_nothing(working_lab: Lab) -> None:
    lab = working_lab
    worker, weights = lab.worker(), lab.weights()
    row = ask(lab, weights, seeds="0-511", num_steps=16, format="npy")
    job = job_of(lab, row)
    lab.wait_until_under_way(job)
    os.kill(worker.actor_pids()[-1], signal.SIGKILL)
    row, data = done(lab, row)
    assert lab.outcomes(job) == ["failed", "succeeded"]
    assert data == drawn_here(lab, weights, row.request)
    keys = [info.key for info in lab.store.list("samples/") if row.id in info.key]
    assert row.result is not None
    assert keys == [row.result["key"]]
    long = ask(lab, weights, seeds="0-50000", num_steps=16, format="npy")
    job = job_of(lab, long)
    lab.wait_until_under_way(job)
    with lab.catalog.transaction() as tx:
        tx.jobs.request_cancel(job.id)
    lab.wait(job, JobState.CANCELLED)
    until(lambda: lab.unfinished() == [], "what it had written to go")
    assert [info.key for info in lab.store.list("samples/") if long.id in info.key] == []
