"""A promoted model stays: through retention, the deletion of unnamed objects, and the loss of the catalog."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import phema
from phema.administration.rebuild import rebuild
from phema.administration.store_verification import verify_store
from phema.client.client import Client
from phema.client.response_models import Model
from phema.command.main import run as run_cli
from phema.services.phema_worker.task_runner import TaskRunner
from phema.shared.catalog import Catalog, JobKind, Run
from phema.shared.service_runtime.object_deletion import delete_listed
from phema.shared.settings import Settings
from phema.shared.snapshots.errors import CorruptObject
from phema.shared.snapshots.stores.object_keys import model_key
from tests.phema.service import process
from tests.phema_worker.lab import TIMES, Lab
from tests.phema_worker.test_keeping import claim, described, laboratory, work


@pytest.fixture
def lab(tmp_path: Path, sqlite_template: Path) -> Iterator[Lab]:
    """SQLite and a folder, without workers."""
    shutil.copy(sqlite_template, tmp_path / "catalog.db")
    with closing(Catalog(f"sqlite:///{tmp_path / 'catalog.db'}")) as catalog:
        yield laboratory(tmp_path, catalog, (tmp_path / "store").as_uri())


@pytest.fixture
def bench(lab: Lab) -> TaskRunner:
    return TaskRunner(Settings(state_dir=lab.folder, store_url=lab.env["PHEMA_STORE_URL"]))


@pytest.fixture
def client(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A client of the real API over the laboratory's catalog and store."""
    with process(Settings(state_dir=lab.folder), **lab.env) as (url, _), Client(url) as opened:
        monkeypatch.setenv("PHEMA_URL", url)
        yield opened


@pytest.fixture
def promoted(lab: Lab, bench: TaskRunner, client: Client) -> tuple[Run, Model]:
    """A run, and its reconstruction that was evaluated and promoted."""
    run, _ = described(lab)
    training = claim(lab, JobKind.TRAIN)
    with lab.catalog.transaction() as tx:
        tx.leases.succeed(training.id, training.fence, {})
    [weights] = client.reconstruct(run.name, 0.08, wait=False)
    work(lab, bench, JobKind.RECONSTRUCT)
    client.evaluate(weights, wait=False, num_samples=8, num_steps=2, grid=1, metrics=["frechet"])
    work(lab, bench, JobKind.EVALUATE)
    return run, client.promote(weights, "digits", description="For the test.")


def test_a_model_outlives_retention_and_the_catalog(
    lab: Lab,
    bench: TaskRunner,
    client: Client,
    promoted: tuple[Run, Model],
    tmp_path: Path,
    sqlite_template: Path,
) -> None:
    run, model = promoted
    card, record = client.models.card("digits"), lab.store.get(model_key(model.id))
    client.retain(run.name, "latest", dry_run=False, keep=1, force=True, wait=False)
    work(lab, bench, JobKind.RETAIN)
    assert {snapshot.num_images for snapshot in client.runs.snapshots(run.name)} == {TIMES[-1]}
    delete_listed(lab.catalog, lab.store)
    assert lab.store.sweep(older_than_s=0) == 0
    assert client.models.get("digits:1") == model
    assert client.models.card("digits:1") == card
    assert all(snapshot["sha256"] in card for snapshot in (model.lineage or {})["snapshots"])
    file = client.models.download("digits", tmp_path)
    assert (file.name, hashlib.sha256(file.read_bytes()).hexdigest()) == ("digits-1.safetensors", model.sha256)
    assert verify_store(lab.catalog, lab.store).damaged == []

    shutil.copy(sqlite_template, tmp_path / "rebuilt.db")
    with closing(Catalog(f"sqlite:///{tmp_path / 'rebuilt.db'}")) as empty:
        found = rebuild(empty, lab.store)
        assert (found.runs, found.reconstructions, found.models, found.skipped) == (1, 1, 1, {})
        assert rebuild(empty, lab.store).models == 0
        with empty.transaction() as tx, lab.catalog.transaction() as before:
            restored, known = tx.models.get("digits:1"), before.models.get("digits:1")
            assert (restored.id, restored.document, restored.created_at) == (known.id, known.document, known.created_at)
            assert restored.reconstruction.sha256 == model.sha256
            assert tx.models.latest_version("digits") == 1
    assert lab.store.get(model_key(model.id)) == record

    lab.store.delete(known.reconstruction.key or "")
    shutil.copy(sqlite_template, tmp_path / "again.db")
    with closing(Catalog(f"sqlite:///{tmp_path / 'again.db'}")) as empty:
        found = rebuild(empty, lab.store)
        assert found.models == 0
        assert found.skipped[model_key(model.id)].startswith("model digits:1 has lost its weights, object runs/")


def test_a_folder_is_loaded_as_the_file_is(client: Client, promoted: tuple[Run, Model], tmp_path: Path) -> None:
    _, made = promoted
    folder = client.models.download_folder("digits", tmp_path / "folder")
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    weights = folder / "diffusion_pytorch_model.safetensors"
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == made.sha256
    assert (folder / "README.md").read_text() == client.models.card(made.id)
    assert phema.metadata(folder) == phema.metadata(weights)
    from_file, from_folder = phema.load(weights), phema.load(folder)
    assert from_file.config == from_folder.config
    torch.testing.assert_close(
        phema.sample(from_folder, seeds=2, num_steps=2), phema.sample(from_file, seeds=2, num_steps=2), rtol=0, atol=0
    )
    # Stored again by a program that knows nothing of phema's metadata.
    save_file(load_file(weights), weights)
    torch.testing.assert_close(
        phema.sample(phema.load(folder), seeds=2, num_steps=2),
        phema.sample(from_file, seeds=2, num_steps=2),
        rtol=0,
        atol=0,
    )
    model = phema.PretrainedDenoiser.from_pretrained(folder, low_cpu_mem_usage=False)
    assert not model.training
    x, classes = torch.randn(2, 1, 8, 8), torch.eye(10)[:2]
    with torch.no_grad():
        assert torch.equal(model(x, 2.0, classes), from_file(x, 2.0, classes))
    model.train()
    assert model.denoiser.training
    model.save_pretrained(tmp_path / "copy")
    torch.testing.assert_close(
        phema.sample(phema.load(tmp_path / "copy"), seeds=2, num_steps=2),
        phema.sample(model.denoiser, seeds=2, num_steps=2),
        rtol=0,
        atol=0,
    )
    config = json.loads((folder / "config.json").read_text())
    config["network"]["model_channels"] *= 2
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CorruptObject, match="does not hold the network its metadata describes"):
        phema.load(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(CorruptObject, match=r"config\.json describes no network"):
        phema.load(folder)


def test_a_sample_of_the_service_is_the_sample_of_the_file(
    lab: Lab,
    bench: TaskRunner,
    client: Client,
    promoted: tuple[Run, Model],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    file = client.models.download("digits", tmp_path)
    asked = client.sample("digits:1", seeds=range(5), class_label=None, format="npz", num_steps=3, wait=False)
    work(lab, bench, JobKind.SAMPLE)
    assert client.sample("digits", seeds="0-4", class_label="none", format="npz", num_steps=3).id == asked.id
    theirs = client.download(asked.id, tmp_path / "theirs.npz")
    options = ("--seeds", "0-4", "--class", "none", "--num-steps", "3")
    assert run_cli(["sample", str(file), *options, "--output", "ours.npz", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["file"], found["request"]["format"]) == ("ours.npz", "npz")
    assert Path("ours.npz").read_bytes() == theirs.read_bytes()
    assert run_cli(["sample", "digits", *options, "--output", "again.npz"]) == 0
    assert Path("again.npz").read_bytes() == theirs.read_bytes()
