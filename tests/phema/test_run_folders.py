"""`phema.SnapshotWriter` and `phema.open` on real folders and a real S3 server, without any service."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import phema
from phema import Profile, SnapshotWriter
from phema.errors import InvalidArgument
from phema.shared.snapshots import CorruptObject, S3Options, SnapshotError
from phema.shared.snapshots.files.header import build_header
from phema.shared.snapshots.files.snapshot_file import encode, read_path
from phema.shared.snapshots.stores.object_keys import FOLDER_RUN
from tests.phema.stored_training import BATCH, END, EVERY, STEPS, WANTED, Regression, distance, train

CONFIG = {"learning_rate": 0.05}
TIMES = STEPS // EVERY


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A folder with the averages of a whole training, and the wanted average, summed directly in float64."""
    folder = tmp_path_factory.mktemp("written") / "runs" / "mine"
    with SnapshotWriter(folder, config=CONFIG, total_images=END) as writer:
        _, direct = train(writer)
    return folder, direct


@pytest.fixture
def copied(written: tuple[Path, dict[str, torch.Tensor]]) -> Path:
    """A copy of the folder, at runs/mine of the test's working directory."""
    shutil.copytree(written[0], "runs/mine")
    return Path("runs/mine")


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty place for snapshots, as a user names it."""
    if request.param == "folder":
        return "my runs/mine"
    url, options = request.getfixturevalue("s3_options")
    use_s3(monkeypatch, options)
    return f"{url}/mine"


def use_s3(monkeypatch: pytest.MonkeyPatch, options: S3Options) -> None:
    monkeypatch.setenv("PHEMA_S3_ENDPOINT_URL", options.endpoint_url or "")
    monkeypatch.setenv("PHEMA_S3_ACCESS_KEY_ID", options.access_key_id or "")
    monkeypatch.setenv("PHEMA_S3_SECRET_ACCESS_KEY", options.secret_access_key or "")


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("runs/*/snapshots/*.safetensors"))


def test_an_average_that_was_not_stored_is_the_directly_tracked_one(place: str, tmp_path: Path) -> None:
    """In a folder and in a bucket: written, listed, planned, reconstructed, compacted, verified."""
    with SnapshotWriter(place, config=CONFIG, total_images=END) as writer:
        _, direct = train(writer)
        writer.finish()
    run = phema.open(place)
    assert (run.name, run.config, run.total_images, run.num_images) == ("mine", CONFIG, END, END)
    snapshots = run.snapshots()
    assert [(s.num_images, s.profile.sigma_rel) for s in snapshots] == [
        (BATCH * EVERY * (i + 1), width) for i in range(TIMES) for width in (0.05, 0.10)
    ]
    plan = run.plan(WANTED)
    assert plan.calibrated
    assert plan.num_images == END
    [output] = plan.outputs
    [made] = run.reconstruct(WANTED, output="chosen.safetensors")
    assert made.path == tmp_path / "chosen.safetensors"
    found = distance(made.path, direct)
    assert made.predicted_error == output.predicted_error
    # An approximation of the movement as a random walk is within a factor of 3; a wrong formula is not.
    assert made.predicted_error / 3 < found < 3 * made.predicted_error < 2e-3
    assert distance(made.path, {n: t + 1e-2 * t.abs().max() for n, t in direct.items()}) > 5 * found

    assert run.bases() == []
    basis = run.compact(tolerance=1e-5)
    assert run.bases() == [basis]
    assert run.compact(tolerance=1e-4) == basis  # covered by what exists
    checked = run.verify()
    assert (checked.files, checked.sound) == (2 * TIMES + basis.vectors, True)
    assert checked.bytes == sum(s.size for s in snapshots) + (basis.size or 0)
    for snapshot in snapshots:  # what the basis replaces; the headers of so small a network outweigh its weights
        run.store.delete(snapshot.key)
    assert run.plan(WANTED).basis_id == basis.id
    [short] = run.reconstruct(WANTED, output="from-basis.safetensors")
    assert distance(short.path, direct) == pytest.approx(found, abs=2e-5)
    assert (run.verify().files, run.verify().sound) == (basis.vectors, True)


def test_the_file_has_the_lineage_and_the_buffers_of_its_last_snapshot(
    copied: Path, written: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    run = phema.open(copied)
    [made] = run.reconstruct(WANTED, 6400, output="out", dtype="float16")
    assert made.path.name == "mine-6400-0.08-float16.safetensors"
    metadata = phema.metadata(made.path)
    assert (metadata.run_id, metadata.num_images, metadata.dtype) == (run.id, 6400, "float16")
    assert (metadata.kind, metadata.config, metadata.config_hash) == ("reconstruction", CONFIG, run.config_hash)
    assert metadata.lineage is not None
    assert metadata.lineage["predicted_error"] == made.predicted_error
    used = {entry["sha256"] for entry in metadata.lineage["snapshots"]}
    assert used <= {s.sha256 for s in run.snapshots() if s.num_images <= 6400}
    last = next(file for file in files_of(copied) if file.name.startswith("000000006400-0.1-"))
    name = "features.1.running_mean"
    assert torch.equal(load_file(made.path)[name], load_file(last)[name])
    model = Regression()
    model.load_state_dict({name: t.to(model.state_dict()[name].dtype) for name, t in load_file(made.path).items()})


def test_profiles_of_any_kind_and_several_at_once(copied: Path) -> None:
    run = phema.open(copied)
    half = Profile(kind="exponential", half_life_images=1500)
    wanted = [Profile.power(0.06), half, Profile(kind="uniform", window_images=3200)]
    together = run.reconstruct(profiles=wanted, output="several")
    assert [file.path.name for file in together] == [
        "mine-10240-0.06.safetensors",
        "mine-10240-ema.safetensors",
        "mine-10240-mean-3200.safetensors",
    ]
    mixed = run.reconstruct(0.09, tensors={"head.*": half}, output="mixed.safetensors")[0]
    alone, other = run.reconstruct(profiles=[Profile.power(0.09), half], output="alone")
    found, plain, short = load_file(mixed.path), load_file(alone.path), load_file(other.path)
    for name in ("head.weight", "features.0.weight"):
        expected, wrong = (short, plain) if name.startswith("head") else (plain, short)
        torch.testing.assert_close(found[name], expected[name], rtol=2e-3, atol=2e-4)
        assert (found[name] - wrong[name]).abs().max() > 10 * (found[name] - expected[name]).abs().max()


def test_a_restarted_script_continues_its_run_and_writes_the_same(copied: Path) -> None:
    """The process died in the middle: what was durable stays, and the rest is written as it would have been."""
    with SnapshotWriter("runs/again", config=CONFIG, total_images=END) as writer:
        train(writer, stop=STEPS // 2)
    first = files_of(Path("runs/again"))
    with SnapshotWriter("runs/again", config=CONFIG, total_images=END) as writer:
        train(writer)
        writer.flush()
        assert writer.counts.objects == 2 * TIMES - len(first)
    ends = [file.name for file in files_of(Path("runs/again"))]
    assert len(ends) == 2 * TIMES
    assert phema.open("runs/again").id != phema.open(copied).id
    pairs = list(zip(phema.open("runs/again").snapshots(), phema.open(copied).snapshots(), strict=True))
    for mine, whole in pairs:
        assert (mine.num_images, mine.profile) == (whole.num_images, whole.profile)
        again, uninterrupted = load_file(f"runs/again/{mine.key}"), load_file(copied / whole.key)
        assert all(torch.equal(again[name], uninterrupted[name]) for name in again)


KILLED = """
import os
from phema import SnapshotWriter
from tests.phema.stored_training import train
with SnapshotWriter("runs/killed", config={}) as writer:
    original = writer.save
    def save(now, *arguments, **keywords):
        original(now, *arguments, **keywords)
        if now == 3200:
            writer.flush()
            os._exit(9)
    writer.save = save
    train(writer)
"""


def test_after_a_kill_on_the_next_line_everything_flushed_is_there(copied: Path) -> None:
    died = subprocess.run([sys.executable, "-c", KILLED], check=False, env=environment())
    assert died.returncode == 9
    run = phema.open("runs/killed")
    assert run.num_images == 3200
    assert (run.verify().sound, run.skipped) == (True, {})
    assert run.reconstruct(0.07, output="killed.safetensors")[0].path.is_file()


COMPACTION = """
import os, phema
from phema.shared.snapshots.combining.combiner import Combiner
finish = Combiner.finish_writes
calls = 0
def die(self):
    global calls
    calls += 1
    finish(self)
    if calls == 5:
        os._exit(9)
Combiner.finish_writes = die
phema.open("runs/mine").compact()
"""


def test_a_killed_compaction_is_no_basis_and_the_next_one_finishes_it(copied: Path) -> None:
    died = subprocess.run([sys.executable, "-c", COMPACTION], check=False, env=environment())
    assert died.returncode == 9
    assert list((copied / ".partial").iterdir()) != []
    run = phema.open(copied)
    assert (run.bases(), run.plan(WANTED).basis_id) == ([], None)
    basis = run.compact()
    assert [file for file in (copied / ".partial").rglob("*") if file.is_file()] == []
    assert len(list(copied.glob("runs/*/bases/*.safetensors"))) == basis.vectors
    assert run.verify().sound


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}


def test_a_run_is_read_while_another_process_writes_it() -> None:
    """Every state that a reader meets is whole: plans use complete times, and files never half appear."""
    done, seen, errors = threading.Event(), set(), []
    writer = SnapshotWriter("runs/live", config={}, max_pending=1)

    def read() -> None:
        run = phema.open("runs/live")
        while not done.is_set() or not seen:
            try:
                if run.snapshots():
                    plan = run.plan(0.08)
                    seen.add(plan.num_images)
                    assert run.skipped == {}
                    assert plan.num_images <= run.num_images
            except Exception as error:
                errors.append(error)
                return

    thread = threading.Thread(target=read)
    with writer:
        thread.start()
        train(writer, stop=STEPS // 2)
    done.set()
    thread.join()
    assert errors == []
    assert phema.open("runs/live").plan(0.08).num_images == END // 2


def test_two_processes_that_open_an_empty_folder_find_one_run() -> None:
    start, opened = threading.Barrier(4), []

    def begin() -> None:
        start.wait()
        with SnapshotWriter("runs/race", config=CONFIG) as writer:
            assert writer.run is not None
            opened.append(writer.run.id)

    threads = [threading.Thread(target=begin) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 4
    assert len(set(opened)) == 1


def test_a_process_that_died_between_the_first_two_files_is_continued() -> None:
    with SnapshotWriter("runs/begun", config=CONFIG):
        pass
    [document] = Path("runs/begun").glob("runs/*/run.json")
    document.unlink()
    with pytest.raises(InvalidArgument, match="runs/begun holds no snapshots yet: its writer was stopped"):
        phema.open("runs/begun")
    with SnapshotWriter("runs/begun", config=CONFIG) as writer:
        assert writer.run is not None
        assert writer.run.id == document.parent.name
    assert phema.open("runs/begun").config == CONFIG


@pytest.mark.parametrize("damage", ["cut", "changed", "foreign", "stranger"])
def test_damaged_files_are_named(copied: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    victim = files_of(copied)[-1]
    data = victim.read_bytes()
    victim.unlink()
    victim.write_bytes(
        {
            "cut": data[:-100],
            "changed": data[:-1] + bytes([data[-1] ^ 1]),
            "foreign": b"no snapshot at all",
            "stranger": data.replace(phema.open(copied).id.encode(), b"run-000000000000"),
        }[damage]
    )
    run = phema.open(copied)
    verified = run.verify()
    assert [file.key for file in verified.damaged] == [str(victim.relative_to(copied))]
    assert victim.name in verified.damaged[0].problem
    if damage == "changed":  # only its bytes tell
        assert run.skipped == {}
        with pytest.raises(CorruptObject, match=victim.name):
            run.reconstruct(WANTED, output="out/chosen.safetensors")
        assert list(Path("out").iterdir()) == []
        return
    assert list(run.skipped) == [str(victim.relative_to(copied))]
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [
        f"a file is not used: {verified.damaged[0].problem}"
    ]
    assert run.plan(WANTED).num_images == END - BATCH * EVERY  # the latest time lacks an average


def test_a_second_file_of_the_same_time_and_profile_is_named(copied: Path) -> None:
    first = files_of(copied)[0]
    tensors = {name: tensor + 1 for name, tensor in load_file(first).items()}
    header = read_path(first).metadata
    assert header is not None
    data = encode(tensors, header)
    second = first.with_name(f"{first.name[:-76]}{sha256(data).hexdigest()}.safetensors")
    second.write_bytes(data)
    run = phema.open(copied)
    assert len(run.snapshots()) == 2 * TIMES
    [(key, reason)] = run.skipped.items()
    used, unused = sorted([first.name, second.name])
    assert key.endswith(unused)
    assert used in reason


def test_nothing_is_left_of_a_reconstruction_that_fails(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("out").mkdir()
    Path("out/chosen.safetensors").write_bytes(b"an earlier one")

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        phema.open(copied).reconstruct(WANTED, output="out/chosen.safetensors", on_progress=stop)
    assert [file.name for file in Path("out").iterdir()] == ["chosen.safetensors"]
    assert Path("out/chosen.safetensors").read_bytes() == b"an earlier one"
    [made] = phema.open(copied).reconstruct(WANTED, output="out/chosen.safetensors")
    assert made.size == Path("out/chosen.safetensors").stat().st_size > 100
    assert [file.name for file in Path("out").iterdir()] == ["chosen.safetensors"]


def test_a_folder_that_may_only_be_read_is_enough(copied: Path) -> None:
    before = sorted(str(path) for path in copied.rglob("*"))
    run = phema.open(copied)
    run.plan([0.05, 0.07])
    run.reconstruct(0.07, output="chosen.safetensors")
    run.verify()
    assert sorted(str(path) for path in copied.rglob("*")) == before


def test_mistakes_are_one_sentence(copied: Path) -> None:
    run = phema.open(copied)
    Path("empty").mkdir()
    with SnapshotWriter("runs/new", config={}):
        pass
    cases = [
        (lambda: phema.open("empty"), r"empty holds no snapshots of phema: no runs/RUN_ID/run.json; phema.SnapshotW"),
        (lambda: phema.open("gone"), r"gone is no folder on this machine"),
        (lambda: phema.open("http://host/mine"), r"http://host/mine is no place for snapshots: give a path, file://"),
        (lambda: phema.open(copied, "other"), r"run 'other' is not in runs/mine, which holds 1 runs: mine"),
        (lambda: phema.open("runs/new").plan(0.1), r"run new in runs/new has no snapshots yet"),
        (lambda: phema.open("runs/new").compact(), r"run new in runs/new has no snapshots yet"),
        (lambda: run.plan(), r"needs either sigma_rel or profiles"),
        (lambda: run.plan(0.5), r"sigma_rel\[0\]: sigma_rel 0.5 must lie strictly between 0 and 12"),
        (lambda: run.plan(0.07, 6000), r"num_images 6000 has no snapshot; the nearest are 5120, 5760, 6400, 7040"),
        (lambda: run.plan(0.07, 0), r"num_images 0 has no snapshot"),
        (lambda: run.plan(0.07, tolerance=0), r"tolerance 0 must be above 0"),
        (lambda: run.plan(0.07, tensors={"hed.*": 0.1}), r"'hed.\*' matches none of the run's \d+ averaged tensors"),
        (lambda: run.plan([0.07, 0.1], tensors={"head.*": 0.1}), r"tensors goes with exactly one profile"),
        (lambda: run.reconstruct([0.07, 0.1], output="a.safetensors"), r"output a.safetensors is one file and 2 avera"),
        (lambda: run.reconstruct(0.07, output="/proc/a.safetensors"), r"output /proc/a.safetensors cannot be written"),
        (lambda: run.reconstruct(0.07, output="a", dtype="int8"), r"dtype 'int8' is unknown; allowed: float32, float1"),
        (lambda: run.compact(tolerance=0.0), r"tolerance 0 must be above 0"),
        (lambda: SnapshotWriter("runs/mine", config={}), r"runs/mine holds run mine with another config or origin"),
        (
            lambda: SnapshotWriter("runs/mine", config=CONFIG, total_images=7),
            r"total_images 7 cannot be given to run m",
        ),
        (lambda: SnapshotWriter("runs/mine", config=CONFIG, name="x"), r"runs/mine holds run mine, not x"),
        (lambda: SnapshotWriter("runs/x", name="run-1"), r"name 'run-1' must be at most 63 letters, digits and ._-"),
        (lambda: SnapshotWriter("runs/x", config={"a": object()}), r"config must be what JSON can hold"),
        (lambda: SnapshotWriter("runs/x", store="file:///a"), r"store and client belong to a service; runs/x is a fol"),
        (lambda: SnapshotWriter("mine", name="x"), r"name 'x' is for a folder or bucket"),
    ]
    for call, sentence in cases:
        with pytest.raises(InvalidArgument, match=sentence) as caught:
            call()  # type: ignore[no-untyped-call]
        assert "\n" not in str(caught.value)
    assert not Path("runs/x").exists()


def test_other_tensors_than_those_of_the_folder_are_refused(copied: Path) -> None:
    """Also after a restart, which does not remember what was saved."""
    sentence = r"tensor features\.0\.bias is missing, in what was saved before it is averaged with shape"
    with SnapshotWriter(copied, config=CONFIG) as writer, pytest.raises(InvalidArgument, match=sentence):
        writer.save(END + BATCH, {"head.weight": torch.zeros(4, 16)}, profile=0.05)


def test_a_bucket_that_does_not_exist_is_one_sentence(
    s3_options: tuple[str, S3Options], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_s3(monkeypatch, s3_options[1])
    for call in (lambda: SnapshotWriter("s3://no-such-bucket/mine"), lambda: phema.open("s3://no-such-bucket/mine")):
        with pytest.raises(SnapshotError, match="no-such-bucket"):
            call()


def test_the_store_of_a_service_is_opened_by_the_name_of_the_run(copied: Path) -> None:
    """Several runs side by side, without folder.json: as a service stores them."""
    with SnapshotWriter("runs/other", config={}) as writer:
        train(writer, stop=2 * EVERY)
    shutil.copytree("runs/other/runs", copied / "runs", dirs_exist_ok=True)
    (copied / FOLDER_RUN).unlink()
    with pytest.raises(InvalidArgument, match=r"holds 2 runs; name one of them as run: mine, other"):
        phema.open(copied)
    assert phema.open(copied, "other").num_images == 2 * EVERY * BATCH
    run = phema.open(copied, phema.open(copied, "mine").id)
    assert run.num_images == END
    with pytest.raises(InvalidArgument, match="holds runs of a service; choose an empty folder"):
        SnapshotWriter(copied, config={})


def test_files_without_a_sample_of_the_weights_are_sampled_from_the_folder(copied: Path) -> None:
    """A service keeps the samples in its catalog; the same plan follows from its files alone."""
    expected = phema.open(copied).plan(WANTED)
    bare = Path("bare")
    shutil.copytree(copied, bare)
    for file in files_of(bare):
        header, data = read_path(file), file.read_bytes()
        assert len(header.probe) > 0
        plain = build_header(header.metadata, header.tensors) + data[header.data_start :]
        file.unlink()
        file.with_name(f"{file.name[:-76]}{sha256(plain).hexdigest()}.safetensors").write_bytes(plain)
    found = phema.open(bare).plan(WANTED)
    assert found.calibrated
    assert found.outputs[0].predicted_error == pytest.approx(expected.outputs[0].predicted_error, rel=1e-9)


def test_planning_does_not_import_torch(copied: Path) -> None:
    code = (
        "import sys, phema; run = phema.open('runs/mine'); plan = run.plan(0.07); "
        "print(plan.calibrated, len(run.snapshots()), [m for m in ('torch', 'sqlalchemy', 'ray', 'fastapi') if m in "
        "sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment())
    assert done.stdout == f"True {2 * TIMES} []\n"


def test_the_folder_describes_itself(copied: Path) -> None:
    named = json.loads((copied / FOLDER_RUN).read_text())["run_id"]
    assert json.loads((copied / "runs" / named / "run.json").read_text()) == {
        "id": named,
        "name": "mine",
        "origin": "external",
        "total_images": END,
        "config": CONFIG,
    }
