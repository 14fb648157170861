"""`phema reconstruct PATH` and `phema runs adopt PATH` in the shell, as docs/own-training.md and docs/cli.md show."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from safetensors.torch import load_file

import phema
from phema import SnapshotWriter
from phema.administration.rebuild import rebuild
from phema.client.client import Client
from phema.services.phema_worker.job_tasks import complete_job, task_of
from phema.services.phema_worker.task_outcomes import Done
from phema.services.phema_worker.task_progress import TaskProgress
from phema.services.phema_worker.task_runner import TaskRunner
from phema.services.trainer.local_training import train_locally
from phema.shared.catalog import Catalog, JobKind
from phema.shared.recipes.presets import resolve
from phema.shared.settings import Settings
from phema.shared.snapshots import S3Options, open_store
from phema.shared.submissions.reconstructions import ReconstructionRequest
from phema.shared.submissions.reconstructions import plan as submitted_plan
from phema.shared.submissions.stored_inputs import load_stored_inputs
from phema.shared.wiring import catalog_from, store_from
from tests.phema.service import Service, api
from tests.phema.stored_training import BATCH, END, EVERY, STEPS, WANTED, distance, train
from tests.phema.test_run_folders import environment, files_of, use_s3

Cli = Callable[..., tuple[int, str, str]]
TIMES = STEPS // EVERY


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Service]:
    """A service of the test's own, which this process can administer."""
    monkeypatch.setenv("PHEMA_STATE_DIR", str(tmp_path / "state"))
    with api(Settings()) as service:
        monkeypatch.setenv("PHEMA_URL", service.url)
        yield service


def write(place: str | Path, stop: int = STEPS, name: str | None = None) -> None:
    with SnapshotWriter(place, config={"learning_rate": 0.05}, name=name) as writer:
        train(writer, stop=stop)


def bytes_below(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def reconstruct_here(service: Service) -> None:
    """Do the queued reconstruction with the code that a worker's actor runs."""
    job = service.claim(JobKind.RECONSTRUCT)
    with service.catalog.transaction() as tx:
        task = task_of(tx, job)
    assert task is not None
    done = TaskRunner(service.settings).do(task, TaskProgress())
    assert isinstance(done, Done), done
    with service.catalog.transaction() as tx:
        complete_job(tx, job, task, done)


def test_the_shell_reconstructs_a_folder(cli: Cli, tmp_path: Path) -> None:
    with SnapshotWriter("runs/mine", config={}) as writer:
        _, direct = train(writer)
    code, out, err = cli("reconstruct", "runs/mine", "--sigma-rel", str(WANTED), "--output", "chosen.safetensors")
    assert code == 0, err
    assert out.splitlines()[0].split() == ["PROFILE", "IMAGES", "DTYPE", "PREDICTED_ERROR", "SIZE", "FILE"]
    assert out.splitlines()[1].endswith(str(tmp_path / "chosen.safetensors"))
    assert distance(tmp_path / "chosen.safetensors", direct) < 1e-3
    code, out, err = cli("reconstruct", "runs/mine", "--sigma-rel", "0.05,0.07", "--output", "several", "--json")
    assert code == 0, err
    assert [Path(file["path"]).name for file in json.loads(out)] == [
        f"mine-{END}-0.05.safetensors",
        f"mine-{END}-0.07.safetensors",
    ]
    assert json.loads(out)[1]["sha256"] == hashlib.sha256(Path(json.loads(out)[1]["path"]).read_bytes()).hexdigest()
    code, out, err = cli("reconstruct", "runs/mine", "--sigma-rel", "0.07", "--plan", "--json")
    assert code == 0, err
    assert json.loads(out) == phema.open("runs/mine").plan(0.07).to_json()


def test_the_shell_reconstructs_a_bucket(
    cli: Cli, s3_options: tuple[str, S3Options], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, options = s3_options
    use_s3(monkeypatch, options)
    write(f"{url}/mine", stop=STEPS // 2)
    code, _, err = cli("reconstruct", f"{url}/mine", "--sigma-rel", "0.07", "--output", "chosen.safetensors")
    assert code == 0, err
    assert phema.metadata("chosen.safetensors").num_images == END // 2


def test_mistakes_in_the_shell_are_one_sentence(cli: Cli) -> None:
    write("runs/mine", stop=4 * EVERY)
    Path("plain").mkdir()
    ask = ("--sigma-rel", "0.07")
    cases = [
        (("runs/mine", *ask), 2, "--output is missing: name the file (FILE.safetensors) or folder"),
        (("runs/mine", *ask, "--no-wait", "--output", "x"), 2, "--no-wait is for a service"),
        (
            ("runs/mine", *ask, "--run", "other", "--plan"),
            2,
            "run 'other' is not in runs/mine, which holds 1 runs: mine",
        ),
        (("runs/other", *ask, "--plan"), 2, "RUN runs/other does not exist on this machine"),
        (("./plain", *ask, "--plan"), 2, "./plain holds no snapshots of phema"),
        (("ftp://host/x", *ask, "--plan"), 2, "ftp://host/x is no place for snapshots"),
        (("plain", *ask, "--plan"), 1, "no service runs from state folder"),  # a run's name, not the folder
        (("plain", *ask, "--plan", "--run", "a"), 2, "--run a chooses a run of a folder; plain is none"),
    ]
    for arguments, code, sentence in cases:
        found, out, err = cli("reconstruct", *arguments)
        assert (found, out) == (code, ""), (arguments, err)
        assert sentence in err
        assert len(err.splitlines()) == 1
    victim = files_of(Path("runs/mine"))[-1]
    data = victim.read_bytes()
    victim.unlink()
    victim.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    code, _, err = cli("reconstruct", "runs/mine", *ask, "--output", "x.safetensors")
    assert code == 1
    assert f"phema: object {victim.relative_to('runs/mine')} in " in err
    assert "is damaged" in err


def test_an_adopted_run_is_a_run_of_the_service_unchanged(cli: Cli, own: Service) -> None:
    """Its plans are the same, the worker makes the same weights, and the folder stays as it is."""
    write("runs/mine")
    run = phema.open("runs/mine")
    basis = run.compact()
    before = bytes_below(Path("runs/mine"))
    planned = run.plan(0.07, tolerance=1e-5)
    code, out, err = cli("runs", "adopt", "runs/mine")
    assert code == 0, err
    assert f"mine is a run of the service; new: {2 * TIMES} snapshots; " in out
    assert bytes_below(Path("runs/mine")) == before
    assert {k: v for k, v in bytes_below(Path("state/store")).items() if k in before} == {
        k: v for k, v in before.items() if k != "folder.json"
    }
    with Client(own.url) as client:
        adopted = client.runs.get("mine")
        assert (adopted.id, adopted.config, adopted.origin) == (run.id, run.config, "external")
        assert (adopted.config_hash, adopted.num_images) == (run.config_hash, END)
        assert len(client.runs.snapshots("mine")) == 2 * TIMES
        assert [(b.num_images, b.vectors) for b in client.bases("mine")] == [(END, basis.vectors)]
        theirs = client.plan("mine", 0.07, tolerance=1e-5)
        assert theirs.calibrated
        assert theirs.outputs[0].coefficients == pytest.approx(planned.outputs[0].coefficients, rel=1e-6, abs=1e-9)
        assert theirs.outputs[0].predicted_error == pytest.approx(planned.outputs[0].predicted_error, rel=1e-6)
        [pending] = client.reconstruct("mine", 0.07, tolerance=1e-5, wait=False)
        reconstruct_here(own)
        file = client.download(pending.id, Path("theirs.safetensors"))
    [made] = run.reconstruct(0.07, tolerance=1e-5, output="ours.safetensors")
    ours, theirs_tensors = load_file(made.path), load_file(file)
    for name in ours:
        if ours[name].is_floating_point():
            assert (ours[name] - theirs_tensors[name]).abs().max() < 1e-6


def test_adoption_can_be_repeated_and_the_training_go_on_in_the_service(cli: Cli, own: Service) -> None:
    write("runs/mine", stop=STEPS // 2)
    assert cli("runs", "adopt", "runs/mine")[0] == 0
    write("runs/mine")
    code, out, err = cli("runs", "adopt", "runs/mine", "--json")
    assert code == 0, err
    assert json.loads(out)["snapshots"] == json.loads(out)["copied"] == TIMES
    code, out, _ = cli("runs", "adopt", "runs/mine", "--json")
    assert (code, json.loads(out)["copied"], json.loads(out)["snapshots"]) == (0, 0, 0)
    with Client(own.url) as client:
        assert client.runs.get("mine").num_images == END
        with SnapshotWriter("mine", config={"learning_rate": 0.05}, client=client) as writer:
            train(writer)
            writer.flush()
            assert writer.counts.objects == 0
            assert writer.run is not None
            assert writer.run.id == phema.open("runs/mine").id


def test_a_folder_that_is_the_store_itself_is_adopted_without_a_copy(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write("runs/mine", stop=STEPS // 2)
    before = bytes_below(Path("runs/mine"))
    inodes = {f: f.stat().st_ino for f in files_of(Path("runs/mine"))}
    monkeypatch.setenv("PHEMA_STATE_DIR", "state")
    monkeypatch.setenv("PHEMA_STORE_URL", (tmp_path / "runs/mine").as_uri())
    code, out, err = cli("runs", "adopt", "runs/mine", "--json")
    assert code == 0, err
    assert (json.loads(out)["copied"], json.loads(out)["snapshots"]) == (0, TIMES)
    assert bytes_below(Path("runs/mine")) == before
    assert inodes == {f: f.stat().st_ino for f in files_of(Path("runs/mine"))}
    # The bucket alone rebuilds a lost catalog, as for every run of the service.
    monkeypatch.setenv("PHEMA_STATE_DIR", "another")
    code, out, err = cli("db", "rebuild", "--json")
    assert code == 0, err
    assert (json.loads(out)["runs"], json.loads(out)["snapshots"], json.loads(out)["skipped"]) == (1, TIMES, {})


def test_from_a_bucket_into_a_folder(
    cli: Cli, s3_options: tuple[str, S3Options], monkeypatch: pytest.MonkeyPatch, empty: Catalog
) -> None:
    url, options = s3_options
    use_s3(monkeypatch, options)
    write(f"{url}/mine", stop=4 * EVERY)
    code, _, err = cli("runs", "adopt", f"{url}/mine")
    assert code == 0, err
    found = rebuild(empty, store_from(Settings()))
    assert (found.runs, found.snapshots, found.skipped) == (1, 8, {})


@pytest.fixture
def empty(sqlite_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Catalog]:
    """A catalog without rows, beside the one of the settings."""
    monkeypatch.setenv("PHEMA_STATE_DIR", "state")
    shutil.copy(sqlite_template, tmp_path / "empty.db")
    with closing(Catalog(f"sqlite:///{tmp_path / 'empty.db'}")) as catalog:
        yield catalog


def test_names_that_are_taken_and_damaged_files(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHEMA_STATE_DIR", "state")
    write("a/mine", stop=2 * EVERY)
    write("b/mine", stop=2 * EVERY)
    assert cli("runs", "adopt", "a/mine")[0] == 0
    code, _, err = cli("runs", "adopt", "b/mine")
    assert code == 2
    assert "phema: name 'mine' is taken by another run of the service; give --name another one\n" in err
    assert not list(Path("state/store/runs").glob(f"{phema.open('b/mine').id}/*"))  # nothing was copied
    code, out, err = cli("runs", "adopt", "b/mine", "--name", "other")
    assert (code, out.partition(" snapshots; ")[0]) == (0, "other is a run of the service; new: 4")
    code, out, err = cli("runs", "adopt", "b/mine")  # again: the service's name for the run counts
    assert (code, out.partition(" snapshots; ")[0]) == (0, "other is a run of the service; new: 0")
    code, _, err = cli("runs", "adopt", "b/mine", "--name", "third")
    assert (code, "is called other in the service; leave --name out" in err) == (2, True)
    code, _, err = cli("runs", "adopt", "b/mine", "--name", "no/name")
    assert (code, "name 'no/name' must be at most 63 letters" in err) == (2, True)

    write("c/damaged", stop=2 * EVERY)
    victim = files_of(Path("c/damaged"))[0]
    data = victim.read_bytes()
    victim.unlink()
    victim.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    code, out, err = cli("runs", "adopt", "c/damaged")
    assert code == 1
    assert "new: 3 snapshots" in out
    assert f"skipped: object {victim.relative_to('c/damaged')} in " in err
    with closing(catalog_from(Settings())) as catalog, catalog.transaction() as tx:
        assert [run.name for run in tx.runs.all()] == ["mine", "other", "damaged"]
        assert tx.runs.get("damaged").num_images == 2 * EVERY * BATCH


KILLED = """
import os, sys
from phema.administration import adoption
done = 0
def die(*arguments):
    global done
    done += 1
    if done == 3:
        os._exit(9)
    copy(*arguments)
copy, adoption._copy_object = adoption._copy_object, die
from phema.command.main import main
main(["runs", "adopt", "runs/mine"])
"""


def test_a_killed_adoption_is_continued(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHEMA_STATE_DIR", "state")
    write("runs/mine", stop=4 * EVERY)
    died = subprocess.run([sys.executable, "-c", KILLED], env=environment(), check=False)
    assert died.returncode == 9
    with closing(catalog_from(Settings())) as catalog, catalog.transaction() as tx:
        assert list(tx.runs.all()) == []
    code, out, err = cli("runs", "adopt", "runs/mine", "--json")
    assert code == 0, err
    assert (json.loads(out)["copied"], json.loads(out)["snapshots"]) == (8 - 2, 8)


def test_other_commands_take_a_folder(cli: Cli) -> None:
    write("runs/mine")
    run = phema.open("runs/mine")
    code, out, _ = cli("runs", "snapshots", "runs/mine", "--limit", "2", "--json")
    assert (code, [(s["num_images"], s["sigma_rel"], s["sha256"]) for s in json.loads(out)]) == (
        0,
        [(s.num_images, s.profile.sigma_rel, s.sha256) for s in run.snapshots()[:2]],
    )
    code, out, _ = cli("compact", "runs/mine", "--plan", "--json")
    assert (code, json.loads(out)) == (0, run.plan_basis().to_json())
    assert run.bases() == []
    code, out, err = cli("compact", "runs/mine", "--json")
    assert (code, json.loads(out)) == (0, run.bases()[0].to_json()), err
    code, out, _ = cli("store", "verify", "runs/mine", "--json")
    assert (code, json.loads(out)["objects"]) == (0, 2 * TIMES + run.bases()[0].vectors)
    victim = files_of(Path("runs/mine"))[0]
    victim.chmod(0o644)
    data = victim.read_bytes()
    victim.write_bytes(data[:-10])
    code, out, err = cli("store", "verify", "runs/mine", "--json")
    assert (code, [d["key"] for d in json.loads(out)["damaged"]]) == (1, [str(victim.relative_to("runs/mine"))])
    assert [line for line in err.splitlines() if victim.name in line] == [
        f"damaged: {json.loads(out)['damaged'][0]['problem']}"
    ]
    code, _, err = cli("compact", "runs/mine", "--no-wait")
    assert (code, "--no-wait is for a service" in err) == (2, True)


def test_the_store_of_another_service_is_read_and_adopted(
    cli: Cli, sqlite_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that phema trained: its plan without the catalog is the service's own, and adoption keeps it resumable."""
    shutil.copy(sqlite_template, tmp_path / "other.db")
    store = open_store((tmp_path / "other").as_uri())
    changes = {"total_images": 256, "batch_size": 16, "snapshot_every": 32, "checkpoint_every": 128, "status_every": 64}
    network = {"channel_mult": [1], "attn_resolutions": []}
    config = resolve("digits-tiny", changes | {"network": network})
    with closing(Catalog(f"sqlite:///{tmp_path / 'other.db'}")) as catalog:
        train_locally(config, catalog, store, name="digits")
        with catalog.transaction() as tx:
            inputs = load_stored_inputs(tx, "digits")
    expected = submitted_plan(inputs, ReconstructionRequest((phema.Profile.power(0.12),)))
    run = phema.open(tmp_path / "other")
    assert (run.name, run.origin, run.num_images) == ("digits", "trained", 256)
    found = run.plan(0.12)
    assert found.calibrated == expected.calibrated
    assert found.outputs[0].coefficients == pytest.approx(list(expected.outputs[0].coefficients), rel=1e-9, abs=1e-12)
    [made] = run.reconstruct(0.12, output="chosen.safetensors")
    assert phema.load(made.path).config == config.network
    monkeypatch.setenv("PHEMA_STATE_DIR", "state")
    code, out, err = cli("runs", "adopt", "other", "--json")
    assert (code, json.loads(out)["snapshots"], json.loads(out)["skipped"]) == (0, 16, {}), err
    for file in (tmp_path / "other/runs").rglob("*.*"):
        assert (tmp_path / "state/store" / file.relative_to(tmp_path / "other")).read_bytes() == file.read_bytes()
    with closing(catalog_from(Settings())) as catalog, catalog.transaction() as tx:
        row = tx.runs.get("digits")
        assert (row.id, row.origin, row.state, row.num_images) == (run.id, "trained", "succeeded", 256)
        assert len(tx.checkpoints.all_but_latest(row.id, 0)) == len(list((tmp_path / "other").rglob("*.pt"))) > 0


def test_learning_rate_decays_and_means_of_stored_times_in_a_folder(cli: Cli) -> None:
    write("runs/mine")
    ask = ("reconstruct", "runs/mine", "--lr-decay", "linear:3200")
    code, out, err = cli(*ask, "--plan", "--json")
    assert code == 0, err
    [output] = json.loads(out)["outputs"]
    # Linear over the last 3,200 of 10,240 images: 1 at half of the run, 1,024 / 3,200 at nine tenths.
    assert [line["multiplier"] for line in output["learning_rate"]] == pytest.approx([1, 0.8, 0.32, 0.16])
    code, _, err = cli(*ask, "--output", "decayed.safetensors")
    assert code == 0, err
    assert phema.metadata("decayed.safetensors").profile.kind == "lr_decay"
    code, out, err = cli("compact", "runs/mine", "--lr-decay", "linear:3200", "--json")
    assert code == 0, err
    assert [profile["shape"] for profile in json.loads(out)["profiles"]] == ["linear"]
    run = phema.open("runs/mine")
    assert run.compact(profiles=phema.Profile(kind="lr_decay", shape="linear", length_images=3200)) == run.bases()[0]
    [made] = run.reconstruct(profiles=phema.Profile(kind="uniform", last_times=4), output="means")
    assert made.profile.times == tuple(END - BATCH * EVERY * i for i in (3, 2, 1, 0))
    for snapshot in run.snapshots():
        run.store.delete(snapshot.key)
    assert run.plan(profiles=phema.Profile(kind="lr_decay", shape="linear", length_images=3200)).basis_id is not None
