"""`phema sample`, `phema promote`, `phema models` and their calls in Python, with a real API and with files."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import phema
from phema.client.client import Client
from phema.errors import Conflict, DownloadError, InvalidArgument, JobFailed, NotFound
from phema.shared import catalog
from phema.shared.edm2.networks.building import build_denoiser
from phema.shared.recipes.presets import resolve
from phema.shared.snapshots.files.snapshot_file import SnapshotMetadata, encode
from phema.shared.snapshots.profile import Profile
from tests.phema.service import Service
from tests.phema.test_cli import document
from tests.phema.test_client import steps

Cli = Callable[..., tuple[int, str, str]]


def weights_file(run_id: str = "run-1", seed: int = 0, **config: Any) -> bytes:
    """A reconstruction of a small network, as a worker writes it."""
    network = {"model_channels": 16, "channels_per_head": 16, **config.pop("network", {})}
    resolved = resolve("digits-tiny", {"network": network, **config})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        denoiser = build_denoiser(resolved.network)
        with torch.no_grad():
            denoiser.unet.out_gain.fill_(0.5)
    metadata = SnapshotMetadata(
        kind="reconstruction",
        run_id=run_id,
        num_images=25_600,
        profile=Profile.power(0.07),
        dtype="float32",
        buffers=tuple(name for name, _ in denoiser.named_buffers()),
        code_version="0.0.7",
        config_hash=resolved.config_hash,
        config=resolved.model_dump(mode="json"),
        lineage={"coefficients": [1.0]},
    )
    return encode(denoiser.state_dict(), metadata)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(weights_file())
    return path


@pytest.fixture
def finished(service: Service, client: Client, trained: catalog.Run) -> str:
    """Id of a finished reconstruction whose file is a real one."""
    [item] = client.reconstruct(trained.name, 0.07, wait=False)
    service.reconstruct(weights_file(trained.id))
    return item.id


def test_a_file_is_drawn_without_a_service(cli: Cli, weights: Path) -> None:
    options = ("--seeds", "0-5", "--num-steps", "3", "--class", "7")
    code, out, err = cli("sample", str(weights), *options, "--columns", "3", "--output", "sevens.png")
    assert (code, out.startswith("sevens.png holds 6 pictures, ")) == (0, True), err
    assert "drawing: 100%, 6 of 6 pictures" in err
    pictures = phema.sample(phema.load(weights), seeds=6, class_labels=7, num_steps=3)
    phema.save_grid(pictures, "expected.png", columns=3)
    np.testing.assert_array_equal(np.asarray(Image.open("sevens.png")), np.asarray(Image.open("expected.png")))
    found = document(cli("sample", str(weights), *options, "--output", "sevens.npy", "--json"))
    assert (found["file"], found["request"]["seeds"], found["request"]["class_label"]) == ("sevens.npy", "0-5", 7)
    expected = np.rint((pictures.clamp(-1, 1).numpy() + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(np.load("sevens.npy"), expected)
    assert cli("sample", str(weights), *options, "--format", "zip")[0] == 0
    with zipfile.ZipFile("weights-samples.zip") as archive:
        assert len(archive.namelist()) == 7
    assert sorted(path.name for path in Path().glob(".*.partial")) == []


def test_a_file_is_guided_by_a_file(cli: Cli, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "guide.safetensors").write_bytes(weights_file(seed=5))
    options = ("--seeds", "0-3", "--num-steps", "3", "--churn", "2", "--churn-noise", "1.003", "--rho", "5")
    guided = (*options, "--guidance", "3", "--guide", "guide.safetensors", "--guidance-interval", "0.1,10")
    assert cli("sample", str(weights), *guided, "--output", "guided.npy")[0] == 0
    settings = {"seeds": 4, "num_steps": 3, "churn": 2.0, "churn_noise": 1.003, "rho": 5.0}
    guide = phema.load("guide.safetensors")
    pictures = phema.sample(phema.load(weights), **settings, guide=guide, guidance=3.0, guidance_interval=(0.1, 10.0))
    expected = np.rint((pictures.clamp(-1, 1).numpy() + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(np.load("guided.npy"), expected)


@pytest.mark.parametrize(
    ("options", "words", "code"),
    [
        (("--class", "10"), "class_label 10 is no class of this network; allowed: 0 to 9, random, none", 2),
        (("--class", "cat"), "class_label 'cat' is no class of this network; allowed: 0 to 9, random, none; its", 2),
        (("--guidance", "2", "--guide", "large.safetensors"), "the guide has img_resolution 16", 2),
        (("--guidance", "2", "--guide", "cut.safetensors"), "object cut.safetensors holds ", 1),
        (("--device", "tpu"), "device tpu cannot be used by torch on this machine", 2),
    ],
)
def test_requests_that_do_not_fit_a_file(
    cli: Cli, weights: Path, options: tuple[str, ...], words: str, code: int
) -> None:
    Path("large.safetensors").write_bytes(weights_file(network={"img_resolution": 16}))
    Path("cut.safetensors").write_bytes(weights.read_bytes()[:-100])
    found, out, err = cli("sample", str(weights), "--seeds", "0", "--num-steps", "2", *options)
    assert (found, out, err.count("phema: ")) == (code, "", 1), err
    assert words in err
    assert not list(Path().glob("*.png"))


def test_names_of_classes_come_from_the_runs_dataset(cli: Cli, tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        (tmp_path / "animals" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "animals" / name / "1.png")
    own = {"name": "animals", "path": str(tmp_path / "animals"), "held_out": 0}
    Path("animals.safetensors").write_bytes(weights_file(dataset=own, network={"label_dim": 2}))
    options = ("--seeds", "0", "--num-steps", "2")
    for wanted, output in (("bee", "name.npz"), ("1", "number.npz")):
        code, _, err = cli("sample", "animals.safetensors", *options, "--class", wanted, "--output", output)
        assert code == 0, err
    assert Path("name.npz").read_bytes() == Path("number.npz").read_bytes()
    code, _, err = cli("sample", "animals.safetensors", *options, "--class", "cat")
    assert (code, "'cat' is no class of this network: its classes are ant, bee" in err) == (2, True)


def test_a_service_draws_and_the_file_is_downloaded(
    service: Service, client: Client, cli: Cli, finished: str, trained: catalog.Run
) -> None:
    options = ("--seeds", "0-3", "--class", "7", "--num-steps", "4", "--columns", "2")
    asked = document(cli("sample", finished, *options, "--no-wait", "--json"))
    assert (asked["state"], asked["request"]["seeds"], asked["request"]["columns"]) == ("queued", "0-3", 2)
    service.draw(b"four sevens")
    code, out, err = cli("sample", finished, *options)
    assert (code, out) == (0, f"{Path.cwd() / asked['id']}.png holds 4 pictures, 11 B\n"), err
    assert Path(f"{asked['id']}.png").read_bytes() == b"four sevens"
    found = client.sample(
        client.reconstruction(finished), seeds=range(4), class_label=7, num_steps=4, columns=2, wait=False
    )
    assert (found.id, found.done, found.num_pictures, found.size) == (asked["id"], True, 4, 11)
    assert [item.id for item in client.samples.list(trained.name)] == [asked["id"]]
    assert client.download(found.id, "again.png").read_bytes() == b"four sevens"
    awaited = client.sample(finished, seeds="9", on_progress=steps(service.draw))
    assert awaited.state == "succeeded"
    guided = client.sample(finished, guide=finished, guidance=2.0, wait=False)
    assert guided.request["guide_id"] == finished
    with pytest.raises(InvalidArgument, match="guide does nothing without guidance"):
        client.sample(finished, guide=finished)
    failing = steps(lambda: service.fail(service.claim(catalog.JobKind.SAMPLE), "no luck"))
    service.clear_queue()
    with pytest.raises(JobFailed, match="no luck"):
        client.sample(finished, seeds="77", on_progress=failing)


def test_a_model_is_promoted_listed_shown_and_downloaded(
    service: Service, client: Client, cli: Cli, finished: str, name: str, trained: catalog.Run
) -> None:
    assert cli("models", "list", "--name", name)[1] == "no models yet; try: phema promote RECONSTRUCTION NAME\n"
    client.evaluate(finished, wait=False, num_samples=8, metrics=["frechet"])
    service.evaluate(1.25)
    code, out, err = cli("promote", finished, name, "--description", "Good digits.")
    assert (code, out.split(" (")[0]) == (0, f"{finished} is {name}:1"), err
    made = client.models.get(name)
    assert (made.version, made.evaluations[0].figures["frechet"], made.evaluations[0].errors) == (1, 1.25, None)
    assert made.network is not None
    assert client.promote(finished, name, description="Good digits.").id == made.id
    code, out, _ = cli("models", "list", "--run", trained.name)
    header, row = out.splitlines()
    assert header.split()[:5] == ["MODEL", "RUN", "PROFILE", "IMAGES", "FIGURE"]
    assert row.split()[:3] == [f"{name}:1", trained.name, "0.07"]
    assert "frechet 1.25" in row
    assert [item["id"] for item in document(cli("models", "list", "--json"))][:1] == [made.id]
    code, card, _ = cli("models", "show", f"{name}:1")
    assert card == client.models.card(made.id)
    assert "Good digits." in card
    assert document(cli("models", "show", name, "--json"))["reference"] == f"{name}:1"
    code, out, err = cli("models", "download", name)
    assert (code, out) == (0, f"{Path.cwd() / name}-1.safetensors\n"), err
    assert phema.load(f"{name}-1.safetensors").config.model_channels == 16
    found = document(cli("models", "download", name, "--folder", "--json"))
    assert found["path"] == f"{name}-1"
    assert json.loads(Path(found["path"], "config.json").read_text()) == client.models.config(name)
    assert client.download(made.id, "by-id.safetensors").read_bytes() == Path(f"{name}-1.safetensors").read_bytes()
    # The folder, the file and the model of the service are all targets of `phema sample`.
    options = ("--seeds", "0-1", "--num-steps", "2", "--format", "npy")
    for target in (f"{name}-1", f"{name}-1.safetensors"):
        assert cli("sample", target, *options, "--output", f"{target}.npy")[0] == 0
    assert Path(f"{name}-1.npy").read_bytes() == Path(f"{name}-1.safetensors.npy").read_bytes()
    asked = document(cli("sample", name, *options, "--no-wait", "--json"))
    assert asked["reconstruction_id"] == finished


def test_mistakes_about_models(client: Client, cli: Cli, service: Service, trained: catalog.Run) -> None:
    [item] = client.reconstruct(trained.name, 0.07, wait=False)
    with pytest.raises(Conflict, match=r"is queued; wait until it has succeeded"):
        client.promote(item, "best")
    with pytest.raises(NotFound, match="There is no model 'nobody'"):
        client.models.card("nobody")
    code, out, err = cli("promote", "rec-nobody", "best")
    assert (code, out, err) == (2, "", "phema: reconstruction_id 'rec-nobody' is no reconstruction\n")
    assert cli("models", "show", "nobody")[2] == "phema: There is no model 'nobody'.\n"
    assert cli("sample", "nobody")[2] == "phema: There is no model 'nobody'.\n"
    service.reconstruct(weights_file(trained.id))
    made = client.promote(item, f"{trained.name}-model")
    Path("taken").write_text("a file")
    with pytest.raises(InvalidArgument, match="taken is a file; a model is downloaded into a folder"):
        client.models.download_folder(made.reference, "taken")
    Path("read-only").mkdir()
    Path("read-only/config.json").mkdir()
    with pytest.raises(DownloadError, match="cannot write into read-only: Is a directory"):
        client.models.download_folder(made.reference, "read-only")
